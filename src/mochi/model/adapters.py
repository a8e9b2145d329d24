"""Low-rank adapters (LoRA) around the linear layers of a network (SPEC 5).

An adapter changes a layer's weight by `alpha / r * B @ A`. Live, the layer stays as it is and the
change is computed beside it; merged, a new layer holds the sum. Either way the original layer is
kept, as the same object, and put back when the adapter leaves.
"""

# Shapes: R rank, I inputs of a layer, O outputs, P outputs that a pair of matrices changes.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.model.layers import Linear


@dataclass(frozen=True)
class Factors:
    """A change of a layer's weight: `scale * B @ A`, on all outputs or on an equal share of them.

    A share lets the three projections of a joint `qkv` have matrices of their own.

    Attributes:
        a: the matrix that inputs meet first, `(R, I)`.
        b: the matrix that gives outputs, `(P, R)`.
        scale: alpha / r.
        part, parts: which of how many equal shares of the outputs.
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0
    part: int = 0
    parts: int = 1

    def rows(self, out_features: int) -> slice:
        """The outputs that are changed."""
        each = out_features // self.parts
        return slice(self.part * each, (self.part + 1) * each)


class LowRank(nn.Module):
    """One pair of matrices as parameters: what an adapter trains.

    Attributes:
        lora_A, lora_B: `(r, in)` and `(outputs, r)`. They may have another dtype than the layer
            (float32 for training); they compute in the layer's.
        scale: alpha / r.
        strength: how much of it is wanted; 0 skips the work.
        dropout: share of the inputs that training drops on the way to `lora_A`.
    """

    def __init__(self, factors: Factors, out_features: int, strength: float, dropout: float):
        super().__init__()
        self.lora_A = nn.Parameter(factors.a, requires_grad=False)
        self.lora_B = nn.Parameter(factors.b, requires_grad=False)
        self.scale, self.strength, self.dropout = factors.scale, strength, dropout
        self.part, self.parts = factors.part, factors.parts
        self._rows = factors.rows(out_features)

    def factors(self) -> Factors:
        """The matrices as they are now, to be written to a file."""
        return Factors(
            self.lora_A.detach(), self.lora_B.detach(), self.scale, self.part, self.parts
        )

    def forward(self, out: Tensor, x: Tensor) -> None:
        """Add the change for inputs `x` to the layer's outputs, in place.

        `addmm` adds and multiplies in one kernel that accumulates in float32: in bfloat16 the sum
        is rounded once, and no second tensor as large as the outputs is made.
        """
        amount = self.strength * self.scale
        if amount == 0.0:
            return
        kept = F.dropout(x.reshape(-1, x.shape[-1]), self.dropout, self.training)
        down = F.linear(kept, self.lora_A.to(x.dtype))
        share = out[..., self._rows].view(down.shape[0], self.lora_B.shape[0])
        share.addmm_(down, self.lora_B.to(x.dtype).T, alpha=amount)


class AdaptedLinear(nn.Module):
    """A linear layer of whatever kind, with live adapters beside it.

    Attributes:
        base: the layer as it was.
        deltas: the pairs of matrices, in the order in which they are added.
    """

    base: Any

    def __init__(self, base: nn.Module, deltas: Sequence[LowRank]):
        super().__init__()
        self.base = base
        self.deltas = nn.ModuleList(deltas)
        self.train(base.training)

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the base layer computes in, and the adapters with it."""
        return compute_dtype(self.base)

    def forward(self, x: Tensor) -> Tensor:
        """`base(x) + sum(strength * scale * B(A(dropout(x))))`."""
        out: Tensor = self.base(x)
        x = x.to(out.dtype)
        for delta in self.deltas:
            delta(out, x)
        return out


@dataclass
class _Entry:
    """An adapter that is on: its matrices by layer, and how they are applied."""

    factors: Mapping[str, Sequence[Factors]]
    strength: float
    merged: bool
    deltas: dict[str, list[LowRank]] = field(default_factory=dict)


class Adapters:
    """The adapters of one network: put on, scaled and taken off again, in any order.

    A layer without adapters is the very object that it was before. While an adapter is merged, the
    original layer is kept beside the sum, so merging costs the memory of the layers it changes (of
    a quantised layer: of its dense form).
    """

    def __init__(self, network: nn.Module):
        self._network = network
        self._originals: dict[str, nn.Module] = {}
        self._entries: dict[str, _Entry] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters that are on, in the order in which they came."""
        return tuple(self._entries)

    def add(
        self,
        name: str,
        factors: Mapping[str, Sequence[Factors]],
        strength: float = 1.0,
        *,
        merged: bool = False,
        dropout: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Put an adapter on.

        Args:
            name: what it is called from now on; new.
            factors: layer name, such as `blocks.0.attn.qkv_x`, to its matrices, which must fit.
            strength: how much of it; may be changed at any time.
            merged: put the sum into the weights instead of computing it beside them.
            dropout: for training; live adapters only.
            dtype: of the live matrices; None takes what each layer computes in. Training wants
                float32.
        """
        assert name not in self._entries
        entry = self._entries[name] = _Entry(factors, strength, merged)
        try:
            for path, pieces in factors.items():
                layer = self._originals.get(path) or self._network.get_submodule(path)
                assert _fits(layer, pieces), path
                self._originals[path] = layer
                if not merged:
                    entry.deltas[path] = [_live(layer, p, strength, dropout, dtype) for p in pieces]
            self._rebuild(factors)
        except BaseException:  # no memory for the sums, or Ctrl-C: as if nothing had been asked
            del self._entries[name]
            self._rebuild([path for path in factors if path in self._originals])
            raise

    def set_strength(self, name: str, strength: float) -> None:
        """Another amount of an adapter; nothing is read again."""
        entry = self._entries[name]
        entry.strength = strength
        for deltas in entry.deltas.values():
            for delta in deltas:
                delta.strength = strength
        if entry.merged:
            self._rebuild(entry.factors)

    def remove(self, name: str) -> None:
        """Take an adapter off; layers without another one are the original objects again."""
        self._rebuild(self._entries.pop(name).factors)

    def clear(self) -> None:
        """Take all adapters off."""
        for name in self.names:
            self.remove(name)

    def live(self, name: str) -> Mapping[str, list[LowRank]]:
        """The matrices of a live adapter by layer: an optimiser's, and a file's in the end."""
        return self._entries[name].deltas

    def _rebuild(self, paths: Iterable[str]) -> None:
        for path in paths:
            on = [entry for entry in self._entries.values() if path in entry.factors]
            # a merged original stands outside the network, which may have moved meanwhile
            original = self._originals[path].to(_device(self._network.get_submodule(path)))
            layer = _merged(original, [(e.strength, e.factors[path]) for e in on if e.merged])
            deltas = [delta for e in on if not e.merged for delta in e.deltas[path]]
            if not on:
                del self._originals[path]
            self._network.set_submodule(path, AdaptedLinear(layer, deltas) if deltas else layer)


def linear_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that can be adapted, with their names: all linear ones, of whatever kind.

    What stands inside an adapted layer is that layer, under its own name.
    """
    inside: tuple[str, ...] = ()
    for name, module in network.named_modules():
        if name.startswith(inside) and inside:
            continue
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            inside = (*inside, f"{name}.")
            yield name, module


def compute_dtype(layer: Any) -> torch.dtype:
    """What a linear layer computes in, of whatever kind it is."""
    dtype: torch.dtype | None = getattr(layer, "compute_dtype", None)
    return dtype or layer.weight.dtype


def is_quantised(layer: Any) -> bool:
    """Whether a layer keeps its weight in another form than a plain tensor of floats."""
    return hasattr(layer, "dense") or type(layer.weight.detach()) is not Tensor


def dense_weight(layer: Any, dtype: torch.dtype) -> Tensor:
    """The weight of a linear layer as a plain tensor, whatever it is stored as."""
    if hasattr(layer, "dense"):
        return layer.dense(dtype)
    weight = layer.weight.detach()
    return (weight.dequantize() if is_quantised(layer) else weight).to(dtype)


# ----------------------------------------------------------------------------------------- helpers


def _merged(original: Any, on: Sequence[tuple[float, Sequence[Factors]]]) -> Any:
    """The layer with these changes in its weight; itself where there are none.

    Sums are float32 and rounded once, to what the layer computes in.
    """
    changes = [(s * f.scale, f) for s, pieces in on for f in pieces if s * f.scale != 0.0]
    if not changes:
        return original
    weight_OI = dense_weight(original, torch.float32).clone()
    for amount, factors in changes:
        a_RI = factors.a.to(weight_OI.device, torch.float32)
        b_PR = factors.b.to(weight_OI.device, torch.float32)
        weight_OI[factors.rows(len(weight_OI))].addmm_(b_PR, a_RI, alpha=amount)
    layer = Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight_OI.to(compute_dtype(original)), requires_grad=False)
    layer.bias = original.bias
    return layer.train(original.training)


def _live(
    layer: Any, factors: Factors, strength: float, dropout: float, dtype: torch.dtype | None
) -> LowRank:
    device, dtype = _device(layer), dtype or compute_dtype(layer)
    if device.type == "meta":  # a weight that is read when it is used; the matrices are here
        device = factors.a.device
    # A copy in any case: the caller's may be views of a file, and layers may share one.
    a_RI, b_PR = (t.detach().to(device, dtype, copy=True) for t in (factors.a, factors.b))
    placed = replace(factors, a=a_RI, b=b_PR)
    return LowRank(placed, layer.out_features, strength, dropout)


def _fits(layer: Any, pieces: Sequence[Factors]) -> bool:
    return all(
        f.a.shape[1] == layer.in_features
        and f.b.shape[0] * f.parts == layer.out_features
        and f.a.shape[0] == f.b.shape[1]
        for f in pieces
    )


def _device(layer: nn.Module) -> torch.device:
    """Where a layer's own weight is; adapters beside it may be elsewhere."""
    base = layer.base if isinstance(layer, AdaptedLinear) else layer
    return next(t.device for t in (*base.parameters(), *base.buffers()))
