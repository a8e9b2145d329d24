"""What is inside an adapter: layer by layer, and what is suspicious about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from mochi.weights.lora import Lora, Pair
from mochi.weights.stored import dtype_name

_FAR_LARGER = 1000.0  # than the median layer


@dataclass(frozen=True)
class PairFacts:
    """About two matrices.

    Attributes:
        layer: our name of the layer that they change.
        part, parts: which of how many equal shares of its outputs.
        inputs, outputs: of the share.
        rank, alpha: as used.
        dtype: of the matrices.
        norm_a, norm_b: Frobenius norms.
        norm: of the change, `alpha / r * B @ A`.
        notes: what is suspicious; empty as a rule.
    """

    layer: str
    part: int
    parts: int
    inputs: int
    outputs: int
    rank: int
    alpha: float
    dtype: str
    norm_a: float
    norm_b: float
    norm: float
    notes: tuple[str, ...] = ()


def facts_of(lora: Lora) -> tuple[PairFacts, ...]:
    """Facts about all matrices of an adapter, in the order of its layers."""
    changes = {id(pair): _norm_of_change(pair) for pair in lora.pairs}
    usual = median([norm for norm in changes.values() if norm > 0] or [0.0])
    return tuple(
        _facts(layer, pair, changes[id(pair)], usual)
        for layer, pairs in lora.layers.items()
        for pair in pairs
    )


def suspicious(facts: Sequence[PairFacts]) -> tuple[PairFacts, ...]:
    """Those that have a note."""
    return tuple(fact for fact in facts if fact.notes)


def _facts(layer: str, pair: Pair, norm: float, usual: float) -> PairFacts:
    return PairFacts(
        layer=layer,
        part=pair.part,
        parts=pair.parts,
        inputs=pair.a.shape[1],
        outputs=len(pair.b),
        rank=pair.rank,
        alpha=float(pair.alpha),
        dtype=" and ".join(dict.fromkeys(dtype_name(t.dtype) for t in (pair.a, pair.b))),
        norm_a=_norm(pair.a),
        norm_b=_norm(pair.b),
        norm=norm,
        notes=tuple(_notes(pair, norm, usual)),
    )


def _notes(pair: Pair, norm: float, usual: float) -> list[str]:
    notes = []
    for name, matrix in (("lora_A", pair.a), ("lora_B", pair.b)):
        bad = int((~matrix.isfinite()).sum())
        if bad:
            notes.append(f"{bad} of {matrix.numel()} numbers of {name} are NaN or infinite")
        elif not matrix.any():
            notes.append(f"{name} is all zeros: it changes nothing")
    if not pair.scale:
        notes.append("alpha is 0: it changes nothing")
    if norm > _FAR_LARGER * usual > 0:
        notes.append(f"its change is {norm / usual:.0f} times as large as that of the median layer")
    return notes


def _norm(matrix: Tensor) -> float:
    return float(matrix.double().norm())


def _norm_of_change(pair: Pair) -> float:
    """Of `alpha / r * B @ A`, by way of two products that are no larger than the rank."""
    a, b = pair.a.double(), pair.b.double()
    squared = torch.sum((b.T @ b) * (a @ a.T)).item()
    return abs(float(pair.scale)) * max(squared, 0.0) ** 0.5
