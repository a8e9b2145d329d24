"""Weights kept as a file stores them, small, and layers that compute from them (float8, ggml).

The dense weight exists for the length of one product. Numbers are decoded in float32 and then
rounded to what the layer computes in, so a layer gives bit for bit what it would give if its
weight had been decoded when it was loaded.
"""

# Shapes: O outputs, I inputs, V tokens of a vocabulary, ... any dimensions before.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.model.blocks import CODECS, Codec

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_DECODED_AT_ONCE = 1 << 19
"""Weights, so that what a decoder needs on the way stays at some MB."""


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """One tensor in its stored form.

    Attributes:
        kind: `float32`, `bfloat16`, `float16`, `float8_e4m3fn`, `float8_e5m2` as they are;
            `fp8_scaled`, float8 with a scale; `q4_0`, `q8_0`, `q4_k` ..., ggml blocks.
        shape: of the weight it stands for.
        data: the numbers, in that shape; of ggml blocks the bytes, uint8 `(rows, bytes of a row)`,
            or `(blocks, bytes of a block)` where a row is no whole number of blocks.
        scale: what the numbers are multiplied with: one float, or one for each row `(O, 1, ...)`.
    """

    kind: str
    shape: tuple[int, ...]
    data: Tensor
    scale: Tensor | None = None

    @property
    def codec(self) -> Codec | None:
        """How its blocks are laid out; None where there are none."""
        return CODECS.get(self.kind)

    @property
    def is_small(self) -> bool:
        """Whether this takes less memory than floats that a network can compute with."""
        return is_small_kind(self.kind)

    @property
    def raw(self) -> Mapping[str, Tensor]:
        """The tensors it consists of, by name."""
        return {"data": self.data} | ({} if self.scale is None else {"scale": self.scale})

    @property
    def nbytes(self) -> int:
        """Bytes it takes as it is."""
        return sum(tensor.nbytes for tensor in self.raw.values())

    def moved(self, place: Callable[[Tensor], Tensor]) -> StoredWeight:
        """The same on another device: `place` moves a tensor and changes nothing else of it."""
        scale = None if self.scale is None else place(self.scale)
        return replace(self, data=place(self.data), scale=scale)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight itself.

        Args:
            dtype: rounded to this; None keeps a plain float tensor as it is (not copied), and
                gives float32 for all else.
        """
        if self.scale is None and self.codec is None and not self.is_small:
            return self.data if dtype is None else self.data.to(dtype)
        chosen = dtype or torch.float32
        if self.data.is_meta:
            return torch.empty(self.shape, dtype=chosen, device="meta")
        out = torch.empty(self.shape, dtype=chosen, device=self.data.device)
        rows = self.data.shape[0]
        flat = out.view(rows, -1) if rows and out.numel() else out.view(rows, 0)
        step = max(1, _DECODED_AT_ONCE * rows // max(1, out.numel()))
        for start in range(0, rows, step):
            chosen_rows = slice(start, start + step)
            flat[chosen_rows] = self._decoded(chosen_rows).flatten(1)
        return out

    def rows(self, index: Tensor) -> Tensor:
        """Rows of a matrix, by number, float32 `(len(index), I)`."""
        if self.codec is not None and self.data.shape[0] != self.shape[0]:
            return self.dense().index_select(0, index)
        return self._decoded(index)

    def _decoded(self, rows: slice | Tensor) -> Tensor:
        data, codec = self.data[rows], self.codec
        if codec is not None:
            return codec.decode(data.view(-1, codec.bytes)).view(data.shape[0], -1)
        numbers = _float8_to_float(data) if data.dtype in FLOAT8 else data.float()
        if self.scale is None:
            return numbers
        scale = self.scale.float()
        return numbers * (scale if scale.numel() == 1 else scale[rows])


def is_small_kind(kind: str) -> bool:
    """Whether a kind of `StoredWeight` is float8 or blocks."""
    return kind in CODECS or kind.startswith(("float8", "fp8"))


def _float8_to_float(data: Tensor) -> Tensor:
    """float32, exactly. On a CPU a table of the 256 values is three times as fast as a cast
    (280 against 800 M weights/s on one Xeon core), and MPS knows no float8."""
    if data.is_cuda:
        return data.float()
    table = _float8_values(data.dtype).to(data.device)
    return table.index_select(0, data.view(torch.uint8).flatten().int()).view(data.shape)


@cache
def _float8_values(dtype: torch.dtype) -> Tensor:
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()


class _Product(torch.autograd.Function):
    """`x @ weight.T + bias` that remembers the stored weight and decodes it again for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: StoredWeight) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight.dense(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        wants_x, wants_bias, _ = ctx.needs_input_grad
        to_x = gradient @ ctx.weight.dense(gradient.dtype) if wants_x else None
        to_bias = gradient.flatten(0, -2).sum(0) if wants_bias else None
        return to_x, to_bias, None


class _StoredLayer(nn.Module):
    """A layer with a stored weight, which moves between devices and never changes otherwise.

    `.to(dtype)` changes what the layer computes in, not what it keeps.
    """

    raw_data: Tensor
    raw_scale: Tensor | None

    def __init__(self, weight: StoredWeight, compute_dtype: torch.dtype):
        super().__init__()
        self.kind = weight.kind
        self.shape = weight.shape
        self.compute_dtype = compute_dtype
        self.register_parameter("weight", None)  # transformers asks whether it is a tensor
        self.register_buffer("raw_data", weight.data)
        self.register_buffer("raw_scale", weight.scale)

    @property
    def stored(self) -> StoredWeight:
        """The weight as it is kept; shares this layer's memory."""
        return StoredWeight(self.kind, self.shape, self.raw_data, self.raw_scale)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight decoded, in `dtype` or else in what the layer computes in."""
        return self.stored.dense(dtype or self.compute_dtype)

    def extra_repr(self) -> str:
        return f"{' x '.join(map(str, self.shape))}, {self.kind}, computes in {self.compute_dtype}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def apply(tensor: Tensor) -> Tensor:
            if isinstance(tensor, nn.Parameter):
                return fn(tensor)
            probe = fn(tensor.new_empty(0))
            return fn(tensor) if probe.dtype == tensor.dtype else tensor.to(probe.device)

        probe = fn(torch.empty(0, dtype=self.compute_dtype, device=self.raw_data.device))
        self.compute_dtype = probe.dtype
        base: Callable[..., nn.Module] = super()._apply
        return base(apply, recurse)


class StoredLinear(_StoredLayer):
    """A linear layer on a stored weight `(O, I)`; gradients reach its input and its bias.

    Attributes:
        in_features, out_features: as of `nn.Linear`.
        bias: a parameter, or None.
        compute_dtype: what the product is computed in.
    """

    def __init__(
        self,
        weight: StoredWeight,
        bias: Tensor | None = None,
        compute_dtype: torch.dtype = torch.float32,
    ):
        super().__init__(weight, compute_dtype)
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., I)` of any float dtype to `(..., O)` of `compute_dtype`."""
        x = x.to(self.compute_dtype)
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        product: Callable[..., Tensor] = _Product.apply
        return product(x, bias, self.stored)


class StoredEmbedding(_StoredLayer):
    """An embedding on a stored table `(V, I)`, of which it decodes the rows it is asked for."""

    def forward(self, ids: Tensor) -> Tensor:
        """Whole numbers of any shape to vectors of `compute_dtype`."""
        rows = self.stored.rows(ids.flatten()).to(self.compute_dtype)
        return rows.view(*ids.shape, -1)


def is_stored(module: nn.Module) -> bool:
    """Whether a layer keeps its weight in a stored form."""
    return isinstance(module, _StoredLayer)


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all weights of a network, the stored ones as small as they are."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(prod(tensor.shape) * tensor.element_size() for tensor in tensors)
