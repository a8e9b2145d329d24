"""Tensors of a checkpoint before they are read: what each is, how large, and how to get it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mochi.model.blocks import CODECS
from mochi.model.stored import FLOAT8, StoredWeight
from mochi.weights.ops import STACK, Op, Shape

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What loads as it is."""


@dataclass(frozen=True, eq=False)
class Stored:
    """One logical tensor, as a file keeps it; nothing is read before it is asked for.

    Attributes:
        kind: as `StoredWeight.kind`; for a tensor that is no weight, its dtype (`uint8`, ...).
        shape: of the weight it stands for.
        nbytes: in the file, its scales included.
        load: reads it; with True it gives a tensor on the `meta` device, and reads nothing.
        forget: lets go of the file's pages behind it, once it was copied and nobody holds it.
    """

    kind: str
    shape: Shape
    nbytes: int
    load: Callable[[bool], StoredWeight]
    forget: Callable[[], None] = lambda: None

    @property
    def raw(self) -> Mapping[str, Tensor]:
        """The tensors it consists of, by name: views of the mapped file where that is possible."""
        return self.load(False).raw

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight itself, as `StoredWeight.dense`."""
        return self.load(False).dense(dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` of `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def plain(
    dtype: torch.dtype,
    shape: Shape,
    nbytes: int,
    read: Callable[[], Tensor],
    forget: Callable[[], None] = lambda: None,
) -> Stored:
    """A tensor of some dtype without scales."""
    kind = dtype_name(dtype)

    def load(meta: bool) -> StoredWeight:
        data = torch.empty(shape, dtype=dtype, device="meta") if meta else read()
        return StoredWeight(kind, shape, data)

    return Stored(kind, shape, nbytes, load, forget)


def blocks(
    kind: str,
    shape: Shape,
    read: Callable[[], Tensor],
    forget: Callable[[], None] = lambda: None,
) -> Stored:
    """Blocks of ggml; `read` gives their bytes, uint8 of any shape."""
    codec = CODECS[kind]
    numbers = 1
    for size in shape:
        numbers *= size
    count = numbers // codec.weights
    apart = shape[-1] % codec.weights == 0 and len(shape) == 2
    packed = (shape[0], count // shape[0] * codec.bytes) if apart else (count, codec.bytes)

    def load(meta: bool) -> StoredWeight:
        data = torch.empty(packed, dtype=torch.uint8, device="meta") if meta else read()
        return StoredWeight(kind, shape, data.view(packed))

    return Stored(kind, shape, count * codec.bytes, load, forget)


def scaled(weight: Stored, scale: Stored) -> Stored:
    """A weight that its scale belongs to: one number, or one for each row."""

    def load(meta: bool) -> StoredWeight:
        numbers, factor = weight.load(meta), scale.load(meta)
        data = factor.data.reshape(_scale_shape(factor.data.numel(), weight.shape))
        return StoredWeight(kind, weight.shape, numbers.data, data)

    is_float8 = weight.kind in map(dtype_name, FLOAT8)
    kind = "fp8_scaled" if is_float8 else f"{weight.kind}_scaled"
    return Stored(kind, weight.shape, weight.nbytes + scale.nbytes, load, weight.forget)


def _scale_shape(count: int, shape: Shape) -> Shape:
    return () if count == 1 else (shape[0], *(1 for _ in shape[1:]))


def joined(op: Op, pieces: Sequence[Stored]) -> Stored:
    """What an operation makes of several tensors, in their stored form where rows stay whole."""
    if len(pieces) == 1 and op is STACK:
        return pieces[0]
    shape = op.join_shapes([piece.shape for piece in pieces])
    kinds = {piece.kind for piece in pieces}
    same = kinds.pop() if len(kinds) == 1 else None
    return Stored(
        same or "float32",
        shape,
        sum(piece.nbytes for piece in pieces),
        partial(_load_joined, op, list(pieces), shape, same is not None),
    )


def _load_joined(
    op: Op, pieces: Sequence[Stored], shape: Shape, same: bool, meta: bool
) -> StoredWeight:
    parts = [piece.load(meta) for piece in pieces]
    by_rows = all(part.data.shape[:1] == part.shape[:1] for part in parts)
    if not (same and by_rows):
        dense = op.join([part.dense(torch.float32) for part in parts])
        return StoredWeight("float32", shape, dense)
    scales = [_by_row(part) for part in parts if part.scale is not None]
    scale = op.join(scales) if scales else None
    data = op.join([part.data for part in parts])
    if not meta:
        for piece in pieces:  # they were copied
            piece.forget()
    return StoredWeight(parts[0].kind, shape, data, scale)


def _by_row(weight: StoredWeight) -> Tensor:
    """The scale with one number for each row, as pieces may differ."""
    assert weight.scale is not None
    rows = (weight.shape[0], *(1 for _ in weight.shape[1:]))
    return weight.scale.expand(rows).contiguous()
