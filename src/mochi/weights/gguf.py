"""The header of a .gguf file, read without trusting a byte of it, and its tensors.

Layout, all little-endian: `GGUF`, version (4 bytes), counts of tensors and of metadata (8 each);
the metadata as name, type, value; the tensors as name, count of dimensions, dimensions with the
fastest first, ggml type, offset; then, aligned, the data that the offsets count from.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mochi.core.errors import WeightsError
from mochi.model.blocks import CODECS
from mochi.weights.ggml import FLOAT_TYPES, TYPES
from mochi.weights.header import MAX_DIMENSION, MAX_DIMENSIONS, MAX_HEADER_BYTES
from mochi.weights.stored import Stored, blocks, plain
from mochi.weights.tensors import forget_pages, map_privately, open_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)
USUAL_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""ComfyUI's quantisers reshape what has no whole blocks in a row, and note its shape under this."""

_LEAST_INFO_BYTES = 8 + 4 + 8 + 4 + 8
_LEAST_ENTRY_BYTES = 8 + 4 + 1
_MAX_NESTING = 4
_KEPT_CHARS = 1 << 16
_STRING, _ARRAY = 8, 9
_FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True)
class BlockInfo:
    """Where a tensor lies: `start` and `end` are bytes from the beginning of the file."""

    kind: str
    shape: tuple[int, ...]
    start: int
    end: int


class GgufFile:
    """One .gguf file: its header checked at once, its tensors mapped on demand.

    Attributes:
        path: the file.
        metadata: its texts, numbers and short lists, as text.
        tensors: by name.

    Raises:
        WeightsError: unreadable, truncated, a header that lies, or an unknown quantisation.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with open_regular(path) as file:
                file_bytes = os.fstat(file.fileno()).st_size
                self._map = map_privately(file, file_bytes)
            header = _Header(_Cursor(self._map, min(file_bytes, MAX_HEADER_BYTES)), file_bytes)
        except OSError as error:
            raise WeightsError(f"cannot be read: {error.strerror or error}", path) from error
        except WeightsError as error:
            raise WeightsError(str(error), path) from None
        self.metadata: Mapping[str, str] = {k: str(v) for k, v in header.metadata.items()}
        self.tensors: Mapping[str, Stored] = {
            name: self._stored(info) for name, info in header.tensors.items()
        }

    def _stored(self, info: BlockInfo) -> Stored:
        # Nothing here may hold `self`: the map goes when the last tensor does, not at some time.
        mapped = self._map
        forget = partial(forget_pages, mapped, info.start, info.end)
        if info.kind in CODECS:
            return blocks(info.kind, info.shape, partial(_bytes, mapped, info), forget)
        dtype = FLOAT_TYPES[info.kind]

        def read() -> Tensor:
            raw = _bytes(mapped, info)
            aligned = raw if info.start % dtype.itemsize == 0 else raw.clone()
            return aligned.view(dtype).view(info.shape)

        return plain(dtype, info.shape, info.end - info.start, read, forget)


def _bytes(mapped: mmap.mmap, info: BlockInfo) -> Tensor:
    count = info.end - info.start
    if not count:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(mapped, dtype=torch.uint8, count=count, offset=info.start)


class _Cursor:
    """Reads from left to right and never beyond the end."""

    def __init__(self, raw: mmap.mmap, end: int):
        self._raw, self._end, self.at = raw, end, 0

    def take(self, count: int) -> bytes:
        self.check_room(count)
        self.at += count
        return self._raw[self.at - count : self.at]

    def skip(self, count: int) -> None:
        self.check_room(count)
        self.at += count

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, least_bytes: int) -> int:
        """A count of things, each of which takes at least so many bytes."""
        found: int = self.number("Q")
        self.check_room(found * least_bytes)
        return found

    def text(self) -> str:
        return self.take(self.count(1)).decode("utf-8", "replace")

    def check_room(self, count: int) -> None:
        if count > self._end - self.at:
            raise WeightsError(
                f"is truncated or its header lies: {count} bytes are announced at {self.at}, "
                f"{self._end - self.at} are there"
            )


class _Header:
    def __init__(self, cursor: _Cursor, file_bytes: int):
        self._cursor = cursor
        if cursor.take(4) != MAGIC:
            raise WeightsError("is no GGUF file")
        version = cursor.number("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = "of a big-endian machine" if swapped in VERSIONS else f"of version {version}"
            raise WeightsError(f"is a GGUF file {what}; little-endian ones of 2 and 3 are read")
        tensors, entries = cursor.count(_LEAST_INFO_BYTES), cursor.count(_LEAST_ENTRY_BYTES)
        self.metadata: dict[str, Any] = {}
        for _ in range(entries):
            self._read_entry()
        alignment = self._alignment()
        infos = [self._read_info() for _ in range(tensors)]
        start = -(-cursor.at // alignment) * alignment
        self.tensors = _placed(infos, start, alignment, file_bytes)

    def _read_entry(self) -> None:
        name, code = self._cursor.text(), self._cursor.number("I")
        if name in self.metadata:
            raise WeightsError(f"has a broken header: {name[:80]!r} appears twice")
        value = self._read_value(code, name, _MAX_NESTING)
        if value is not None:
            self.metadata[name] = value

    def _read_value(self, code: int, name: str, nesting: int) -> Any:
        """A value, or None for one that nothing here reads: a vocabulary and the like."""
        cursor = self._cursor
        if code == _STRING:
            return cursor.text()[:_KEPT_CHARS]
        if code in _FORMATS:
            return cursor.number(_FORMATS[code])
        if code != _ARRAY or not nesting:
            raise WeightsError(f"has a broken header: {name[:80]!r} is of type {code}")
        inner = cursor.number("I")
        if inner in _FORMATS:
            size = struct.calcsize(f"<{_FORMATS[inner]}")
            count = cursor.count(size)
            if count <= MAX_DIMENSIONS:
                return [cursor.number(_FORMATS[inner]) for _ in range(count)]
            cursor.skip(count * size)
            return None
        for _ in range(cursor.count(8)):
            self._read_value(inner, name, nesting - 1)
        return None

    def _alignment(self) -> int:
        found = self.metadata.get("general.alignment", USUAL_ALIGNMENT)
        if type(found) is not int or not 0 < found <= MAX_ALIGNMENT:
            raise WeightsError(f"has a broken header: general.alignment is {str(found)[:40]}")
        return found

    def _read_info(self) -> tuple[str, BlockInfo]:
        """A tensor; its start still counts from the beginning of the data."""
        cursor = self._cursor
        name, dimensions = cursor.text(), cursor.number("I")
        if dimensions > MAX_DIMENSIONS:
            raise WeightsError(f"has a broken header: {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(reversed([cursor.number("Q") for _ in range(dimensions)]))
        code, offset = cursor.number("I"), cursor.number("Q")
        if max(shape, default=0) > MAX_DIMENSION:
            raise WeightsError(f"has a broken header: {name[:80]!r} has the shape {shape}")
        kind = _kind(name, code)
        size = _bytes_of(name, kind, shape)
        original = self.metadata.get(ORIGINAL_SHAPE + name)
        if original is not None:
            shape = _original_shape(name, original, shape)
        return name, BlockInfo(kind, shape, offset, offset + size)


def _kind(name: str, code: int) -> str:
    kind = TYPES.get(code, f"type {code}").lower()
    if kind not in CODECS and kind not in FLOAT_TYPES:
        raise WeightsError(
            f"stores {name[:80]!r} in the ggml quantisation {TYPES.get(code, kind)}, which is not "
            f"read; known are {', '.join(name.upper() for name in (*CODECS, *FLOAT_TYPES))}"
        )
    return kind


def _bytes_of(name: str, kind: str, shape: tuple[int, ...]) -> int:
    if kind in FLOAT_TYPES:
        return prod(shape) * FLOAT_TYPES[kind].itemsize
    codec = CODECS[kind]
    if not shape or shape[-1] % codec.weights:
        raise WeightsError(
            f"has a broken header: {name[:80]!r} of shape {shape} has no whole {kind} blocks of "
            f"{codec.weights} in a row"
        )
    return prod(shape) // codec.weights * codec.bytes


def _original_shape(name: str, original: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    whole = isinstance(original, list) and all(type(n) is int and n >= 0 for n in original)
    if not whole or prod(original) != prod(shape):
        raise WeightsError(
            f"has a broken header: {name[:80]!r} of shape {shape} says it was {str(original)[:80]}"
        )
    return tuple(original)


def _placed(
    infos: list[tuple[str, BlockInfo]], start: int, alignment: int, file_bytes: int
) -> dict[str, BlockInfo]:
    """The tensors by name, each inside the file and none over another."""
    found: dict[str, BlockInfo] = {}
    end, before = start, "the header"
    for name, info in sorted(infos, key=lambda item: (item[1].start, item[1].end)):
        placed = BlockInfo(info.kind, info.shape, start + info.start, start + info.end)
        if name in found:
            raise WeightsError(f"has a broken header: tensor {name[:80]!r} appears twice")
        if info.start % alignment:
            raise WeightsError(f"has a broken header: tensor {name[:80]!r} is not aligned")
        if placed.start < end and placed.end > placed.start:
            raise WeightsError(f"has a broken header: tensor {name[:80]!r} overlaps {before[:80]}")
        if placed.end > file_bytes:
            raise WeightsError(
                f"is truncated: {placed.end} bytes are announced, {file_bytes} are there"
            )
        found[name] = placed
        end, before = max(end, placed.end), repr(name)
    return {name: found[name] for name, _ in infos}
