"""One tensor of ours, in whatever form it comes, to the tensors that a file of some kind keeps.

What a kind of file can hold, and under which names, is a `Container`:

| container | wide | float8, as it is | float8 with a scale | ggml blocks |
|---|---|---|---|---|
| `DIFFUSERS`, `HUGGING_FACE` | yes | | | |
| `ORIGINAL` | yes | yes | | q4_0 and q8_0, as `.Q4_0_qweight` |
| `COMFY_OLD`, `COMFY_NEW` | yes | yes | by the old or the new marking | |
| `GGUF` | yes | | | all |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Literal

import torch
from torch import Tensor

from mochi.core.errors import WeightsError
from mochi.model.blocks import CODECS
from mochi.model.stored import StoredWeight
from mochi.weights.names import Names
from mochi.weights.quantize import BLOCK_FORMS, FP8, fp8_scale, to_fp8
from mochi.weights.stored import FLOATS, Stored, dtype_name
from mochi.weights.write import Piece

Load = Callable[[], StoredWeight]
"""Reads the tensor, or gives it once more if it was the last one that was read."""

Marking = Literal["", "old", "new"]

FLOAT_KINDS = tuple(dtype_name(dtype) for dtype in FLOATS)
FP8_KIND, SCALED_KIND = dtype_name(FP8), "fp8_scaled"
_AT_ONCE = 1 << 18  # weights; blocks are packed six times as fast from a cache as from memory
_CONFIG = b'{"format": "float8_e4m3fn"}'


@dataclass(frozen=True)
class Container:
    """What a kind of file can hold.

    Attributes:
        name: for messages.
        float8: whether float8 numbers without a scale.
        marking: of float8 with a scale; empty where that cannot be held.
        blocks: the kinds of ggml blocks that can be held.
        blocks_have_kind: whether the file knows the kinds, or their names have to tell them.
    """

    name: str
    float8: bool = False
    marking: Marking = ""
    blocks: tuple[str, ...] = ()
    blocks_have_kind: bool = False

    def holds(self, kind: str) -> bool:
        """Whether a tensor stored like this can be kept as it is."""
        if kind == FP8_KIND:
            return self.float8
        if kind == SCALED_KIND:
            return bool(self.marking)
        return kind in FLOAT_KINDS or kind in self.blocks


DIFFUSERS = Container("diffusers")
HUGGING_FACE = Container("Hugging Face")
ORIGINAL = Container("original", float8=True, blocks=("q4_0", "q8_0"))
COMFY_OLD = Container("ComfyUI", float8=True, marking="old")
COMFY_NEW = replace(COMFY_OLD, marking="new")
GGUF = Container("GGUF", blocks=tuple(CODECS), blocks_have_kind=True)


def encode(
    container: Container, names: Names, our_name: str, stored: Stored, kind: str, load: Load
) -> list[Piece]:
    """The tensors of a file that stand for one of ours.

    Args:
        container: the kind of file.
        names: its names.
        our_name: the tensor's name.
        stored: how it is kept now, and its shape.
        kind: how it shall be kept.
        load: reads it.

    Raises:
        WeightsError: such a file cannot hold this kind.
    """
    if not container.holds(kind):
        raise WeightsError(
            f"keeps {our_name} as {kind}, which a {container.name} file cannot hold; "
            "float32 or bfloat16 as dtype decodes it"
        )
    source = _Source(our_name, stored, load)
    if kind in FLOAT_KINDS:
        return _wide(names, source, kind)
    [their_name] = names.sources(our_name).names
    if kind in CODECS:
        return [_blocks(container, their_name, source, kind)]
    if kind == FP8_KIND:
        return [_float8(their_name, source)]
    return _scaled(container.marking, their_name, source)


@dataclass(frozen=True)
class _Source:
    name: str
    stored: Stored
    load: Load

    def float_rows(self) -> Iterator[Tensor]:
        """The weight as float32, some rows at a time."""
        for rows in _rows(self.load().dense()):
            yield rows.float()


def _rows(tensor: Tensor) -> Iterable[Tensor]:
    """Views of a tensor, some rows at a time."""
    if tensor.numel() <= _AT_ONCE:
        return [tensor]
    return tensor.split(max(1, _AT_ONCE * tensor.shape[0] // tensor.numel()))


def _wide(names: Names, source: _Source, kind: str) -> list[Piece]:
    sources, dtype = names.sources(source.name), getattr(torch, kind)
    shapes = sources.op.split_shape(source.stored.shape, len(sources.names))

    def chunks(index: int) -> Iterator[Tensor]:
        parts = sources.op.split(source.load().dense(), len(sources.names))
        for rows in _rows(parts[index]):
            yield _cast(rows, dtype, source.name)

    def piece(index: int) -> Piece:
        size = prod(shapes[index]) * dtype.itemsize
        return Piece(sources.names[index], kind, shapes[index], size, lambda: chunks(index))

    return [piece(index) for index in range(len(sources.names))]


def _cast(rows: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    if rows.dtype == dtype:
        return rows
    cast = rows.to(dtype)
    if dtype == torch.float16 and not cast.isfinite().all():
        raise WeightsError(
            f"holds values of {name} that float16 cannot (too large, infinite or NaN); bfloat16 can"
        )
    return cast


def _blocks(container: Container, name: str, source: _Source, kind: str) -> Piece:
    stored, codec = source.stored, CODECS[kind]
    kept = stored.kind == kind
    nbytes = prod(stored.shape) // codec.weights * codec.bytes

    def chunks() -> Iterator[Tensor]:
        if kept:
            yield from _rows(source.load().data)
        else:
            for rows in source.float_rows():
                yield BLOCK_FORMS[kind].pack(rows)

    if container.blocks_have_kind:
        return Piece(name, kind, stored.shape, nbytes, chunks)
    layer = name.removesuffix(".weight")
    shape = (stored.shape[0], nbytes // stored.shape[0])
    return Piece(f"{layer}.{kind.upper()}_qweight", "uint8", shape, nbytes, chunks)


def _float8(name: str, source: _Source) -> Piece:
    stored = source.stored

    def chunks() -> Iterator[Tensor]:
        if stored.kind == FP8_KIND:
            yield from _rows(source.load().data)
        else:
            for rows in source.float_rows():
                yield to_fp8(rows)

    return Piece(name, FP8_KIND, stored.shape, prod(stored.shape), chunks)


def _scaled(marking: Marking, name: str, source: _Source) -> list[Piece]:
    """The weight, its scale, and what the marking wants beside them."""
    stored = source.stored
    kept = stored.kind == SCALED_KIND

    @cache
    def scale() -> Tensor:
        if kept:
            found = source.load().scale
            assert found is not None
            return found.float()
        return fp8_scale(torch.stack([rows.abs().amax() for rows in source.float_rows()]).amax())

    def chunks() -> Iterator[Tensor]:
        if kept:
            yield from _rows(source.load().data)
        else:
            for rows in source.float_rows():
                yield to_fp8(rows, scale())

    layer = name.removesuffix(".weight")
    label = f"{layer}.{'scale_weight' if marking == 'old' else 'weight_scale'}"
    shape = _scale_shape(stored) if kept else ()
    pieces = [
        Piece(name, FP8_KIND, stored.shape, prod(stored.shape), chunks),
        Piece(label, "float32", shape, 4 * prod(shape), lambda: [scale()]),
    ]
    if marking == "new":
        config = torch.frombuffer(bytearray(_CONFIG), dtype=torch.uint8)
        pieces.append(_small(f"{layer}.comfy_quant", config))
    return pieces


def _scale_shape(stored: Stored) -> tuple[int, ...]:
    """Of a scaled weight, without reading it."""
    scale = stored.load(True).scale
    assert scale is not None
    return tuple(scale.shape)


def old_marker(prefix: str) -> Piece:
    """`scaled_fp8`, by which ComfyUI knows the old marking.

    Two elements ask for products in full precision, so that a weight means what it decodes to.
    """
    return _small(f"{prefix}scaled_fp8", torch.zeros(2, dtype=FP8))


def _small(name: str, tensor: Tensor) -> Piece:
    kind = dtype_name(tensor.dtype)
    return Piece(name, kind, tuple(tensor.shape), tensor.nbytes, lambda: [tensor])
