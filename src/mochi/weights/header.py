"""The header of a .safetensors file, read without trusting a byte of it.

Layout: 8 bytes little-endian N, then N bytes of JSON
`{name: {"dtype", "shape", "data_offsets"}, "__metadata__": {str: str}}`, then the data, which the
offsets tile without gap or overlap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, TypeGuard

import torch

from mochi.core.errors import WeightsError

PREFIX_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the limit of the reference reader
MAX_DIMENSIONS = 16
MAX_DIMENSION = 2**40

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}

# What people have under a name that ends in .safetensors, by its first bytes.
_OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive, such as a PyTorch .pt or .ckpt"),
    (b"\x80\x02", "a Python pickle, such as an old PyTorch .pt"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches what it points at"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"\x1f\x8b", "a gzip archive"),
)


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `start` and `end` are bytes from the beginning of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header: every tensor lies inside the file, none overlaps another.

    `end` is where the data begin, in bytes from the beginning of the file.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    end: int


def read_header(file: BinaryIO, file_bytes: int) -> Header:
    """The header of an open file of `file_bytes` bytes, positioned at its beginning.

    Raises:
        WeightsError: the file is empty, truncated, no safetensors, or its header lies.
    """
    prefix = file.read(PREFIX_BYTES)
    if not file_bytes:
        raise WeightsError("is empty (0 bytes)")
    header_bytes = int.from_bytes(prefix, "little")
    start = PREFIX_BYTES + header_bytes
    if header_bytes > MAX_HEADER_BYTES or start > file_bytes or file_bytes < PREFIX_BYTES:
        raise WeightsError(_what_else(prefix + file.read(40), header_bytes, file_bytes))
    entries = _parse_json(file.read(header_bytes))
    metadata = _check_metadata(entries.pop("__metadata__", None))
    tensors = {name: _check_entry(name, entry, start) for name, entry in entries.items()}
    _check_tiling(tensors, start, file_bytes)
    return Header(tensors, metadata, start)


def _what_else(first_bytes: bytes, header_bytes: int, file_bytes: int) -> str:
    for magic, what in _OTHER_FORMATS:
        if first_bytes.startswith(magic):
            return f"is no safetensors file but {what}"
    if header_bytes > MAX_HEADER_BYTES or file_bytes < PREFIX_BYTES:
        return "is no safetensors file: its first 8 bytes are no header size"
    return (
        f"is truncated or no safetensors file: a header of {header_bytes} bytes is announced, "
        f"{file_bytes - PREFIX_BYTES} follow"
    )


def _parse_json(raw: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise WeightsError(f"is no safetensors file: its header is no JSON ({reason})") from None
    if not isinstance(parsed, dict):
        raise WeightsError("is no safetensors file: its header is no JSON object")
    return parsed


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _check_metadata(metadata: object) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise WeightsError("has a broken header: __metadata__ does not map strings to strings")
    return metadata


def _check_entry(name: str, entry: object, data_start: int) -> TensorInfo:
    def broken(what: str) -> WeightsError:
        return WeightsError(f"has a broken header: tensor {name[:200]!r} {what}")

    if not isinstance(entry, dict):
        raise broken("has no description")
    dtype = DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise broken(f"has the unknown dtype {str(entry.get('dtype'))[:40]!r}")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if (
        not _whole_numbers(shape)
        or len(shape) > MAX_DIMENSIONS
        or max(shape, default=0) > (MAX_DIMENSION)
    ):
        raise broken(f"has the shape {str(shape)[:80]}")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise broken(f"has the data_offsets {str(offsets)[:80]}")
    needed = prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != needed:
        raise broken(f"needs {needed} bytes, its data_offsets span {offsets[1] - offsets[0]}")
    return TensorInfo(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _whole_numbers(value: object) -> TypeGuard[list[int]]:
    # type(), as JSON's true and false are ints to isinstance
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_tiling(tensors: Mapping[str, TensorInfo], start: int, file_bytes: int) -> None:
    position, before = start, "the header"
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != position:
            what = "overlaps" if info.start < position else "leaves a gap behind"
            raise WeightsError(f"has a broken header: tensor {name[:200]!r} {what} {before[:200]}")
        position, before = info.end, repr(name)
    if position > file_bytes:
        raise WeightsError(f"is truncated: {position} bytes are announced, {file_bytes} are there")
    if position < file_bytes:
        raise WeightsError(
            f"has {file_bytes - position} bytes that belong to no tensor, after {before[:200]}"
        )
