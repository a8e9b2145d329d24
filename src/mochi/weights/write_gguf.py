""".gguf files (version 3) written tensor after tensor.

Layout, little-endian: magic, version, counts of tensors and of metadata; the metadata as (key,
type, value); for each tensor (name, number of dimensions, dimensions from the innermost out, type,
offset); then the data, each tensor at a multiple of 32 bytes.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

from mochi.weights.ggml import FLOAT_TYPES, TYPES
from mochi.weights.stored import dtype_name
from mochi.weights.write import OnBytes, Piece, PlannedFile, write_piece

Value = str | int | float

ARCHITECTURE = "mochi"
_CODES: Mapping[str, int] = {
    dtype_name(FLOAT_TYPES[name]) if (name := known.lower()) in FLOAT_TYPES else name: code
    for code, known in TYPES.items()
}
# What most of a file's weights are, by the numbers that llama.cpp gives to kinds of files.
_FILE_TYPES: Mapping[str, int] = {
    "float32": 0,
    "float16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q2_k": 10,
    "q3_k": 12,
    "q4_k": 15,
    "q5_k": 17,
    "q6_k": 18,
    "bfloat16": 32,
}
_QUANTISATION_VERSION = 2
_MAGIC, _VERSION, _ALIGNMENT = b"GGUF", 3, 32
_UINT32, _FLOAT32, _STRING = 4, 6, 8


def gguf_file(
    name: str, pieces: Sequence[Piece], metadata: Mapping[str, Value] | None = None
) -> PlannedFile:
    """One file.

    Args:
        name: of the file.
        pieces: its tensors, of at most four dimensions.
        metadata: what it says beside them, `general.architecture` among it; a file of a
            transformer says `mochi` there.
    """
    header = _header(pieces, _metadata(pieces, metadata or {}))

    def write(file: BinaryIO, on_bytes: OnBytes) -> None:
        file.write(header)
        on_bytes(len(header))
        for piece in pieces:
            write_piece(file, piece, on_bytes)
            padding = bytes(_padding(piece.nbytes))
            file.write(padding)
            on_bytes(len(padding))

    return PlannedFile(name, len(header) + sum(_padded(p.nbytes) for p in pieces), write)


def _metadata(pieces: Iterable[Piece], given: Mapping[str, Value]) -> dict[str, Value]:
    held: Counter[str] = Counter()
    for piece in pieces:
        held[piece.kind] += piece.nbytes
    mostly = held.most_common(1)[0][0] if held else "float32"
    return {
        "general.architecture": ARCHITECTURE,
        "general.type": "model",
        "general.file_type": _FILE_TYPES[mostly],
        "general.quantization_version": _QUANTISATION_VERSION,
        **given,
    }


def _header(pieces: Sequence[Piece], metadata: Mapping[str, Value]) -> bytes:
    parts = [_MAGIC, struct.pack("<IQQ", _VERSION, len(pieces), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(value)]
    position = 0
    for piece in pieces:
        sizes = tuple(reversed(piece.shape))
        parts += [
            _string(piece.name),
            struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, _CODES[piece.kind], position),
        ]
        position += _padded(piece.nbytes)
    raw = b"".join(parts)
    return raw + bytes(_padding(len(raw)))


def _value(value: Value) -> bytes:
    """A value after the number of its type: string, uint32 or float32."""
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    return struct.pack("<If", _FLOAT32, value)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _padding(count: int) -> int:
    return -count % _ALIGNMENT


def _padded(count: int) -> int:
    return count + _padding(count)
