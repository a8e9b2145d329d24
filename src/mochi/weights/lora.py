"""An adapter (LoRA) in memory: pairs of thin matrices under our names of the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from torch import Tensor

from mochi.model.adapters import Factors
from mochi.weights.lora_files import sha256
from mochi.weights.lora_names import Flavour


@dataclass(frozen=True, eq=False)
class Pair:
    """Two matrices of an adapter, as stored.

    Attributes:
        module: the layer they change, as the file calls it.
        a: `(r, inputs)`.
        b: `(outputs of this share, r)`, rows in our order.
        scale: alpha / r, exactly.
        part, parts: which of how many equal shares of the layer's outputs.
    """

    module: str
    a: Tensor
    b: Tensor
    scale: Fraction
    part: int = 0
    parts: int = 1

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def alpha(self) -> Fraction:
        """What the flavours write down: scale times rank."""
        return self.scale * self.rank

    def factors(self) -> Factors:
        """For a network."""
        return Factors(self.a, self.b, float(self.scale), self.part, self.parts)


@dataclass(frozen=True, eq=False)
class Lora:
    """An adapter.

    Attributes:
        path: its file; None for one that was made here.
        flavour: how its names are written.
        layers: our name of a layer, such as `blocks.0.attn.qkv_x`, to its matrices: one pair for
            the whole of it, or pairs for shares of it.
        metadata: strings that whoever wrote the file put beside the tensors.
    """

    path: Path | None
    flavour: Flavour
    layers: Mapping[str, Sequence[Pair]]
    metadata: Mapping[str, str]

    @classmethod
    def of_factors(
        cls, layers: Mapping[str, Sequence[Factors]], metadata: Mapping[str, str] | None = None
    ) -> Lora:
        """The adapter that a network wears, to be written to a file."""
        pairs = {
            layer: [Pair(layer, f.a, f.b, _quotient(f.scale), f.part, f.parts) for f in factors]
            for layer, factors in layers.items()
        }
        return cls(None, "original", pairs, dict(metadata or {}))

    @property
    def pairs(self) -> list[Pair]:
        """All of them."""
        return [pair for pairs in self.layers.values() for pair in pairs]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that occur."""
        return tuple(sorted({pair.rank for pair in self.pairs}))

    @property
    def alphas(self) -> tuple[float, ...]:
        """The alphas that occur."""
        return tuple(sorted({float(pair.alpha) for pair in self.pairs}))

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices as stored."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.pairs)

    @property
    def parameters(self) -> int:
        """Numbers in its matrices."""
        return sum(pair.a.numel() + pair.b.numel() for pair in self.pairs)

    @cached_property
    def sha256(self) -> str:
        """Of the file with the matrices: tells this adapter from others."""
        assert self.path is not None
        return sha256(self.path)

    def factors(self) -> dict[str, list[Factors]]:
        """For `model.adapters.Adapters`."""
        return {layer: [pair.factors() for pair in pairs] for layer, pairs in self.layers.items()}


def _quotient(scale: float) -> Fraction:
    """The quotient alpha / r as it was, where alpha was a sensible number."""
    near = Fraction(scale).limit_denominator(1 << 20)
    return near if float(near) == scale else Fraction(scale)
