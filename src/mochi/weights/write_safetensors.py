""".safetensors files written tensor after tensor: the header is known before the first value is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import BinaryIO

from mochi.weights.header import DTYPES, PREFIX_BYTES
from mochi.weights.write import OnBytes, Piece, PlannedFile, text_file, write_piece

FORMAT: Mapping[str, str] = {"format": "pt"}
"""Metadata without which transformers and diffusers refuse a file."""

_CODES = {str(dtype).removeprefix("torch."): code for code, dtype in DTYPES.items()}
_ITEM_BYTES = {str(dtype).removeprefix("torch."): dtype.itemsize for dtype in DTYPES.values()}
_ALIGNMENT = 64
"""Of the data, in bytes: a processor's widest registers read mapped weights without a seam, and a
product rounds alike whatever the length of the header before it."""


def safetensors_file(
    name: str, pieces: Iterable[Piece], metadata: Mapping[str, str] = FORMAT
) -> PlannedFile:
    """One file, written in the order of `pieces`.

    Wide tensors lie in front, so that all are aligned to their items; hence the file is filled
    here and there, and a scale can be written after the weight that it was found with.
    """
    given = list(pieces)
    ordered = sorted(given, key=lambda piece: -_ITEM_BYTES[piece.kind])
    starts = dict(zip((p.name for p in ordered), _starts(ordered), strict=True))
    header = _header(ordered, metadata)

    def write(file: BinaryIO, on_bytes: OnBytes) -> None:
        file.write(header)
        on_bytes(len(header))
        for piece in given:
            file.seek(len(header) + starts[piece.name])
            write_piece(file, piece, on_bytes)

    return PlannedFile(name, len(header) + sum(piece.nbytes for piece in given), write)


def safetensors_shards(
    stem: str, pieces: Sequence[Piece], shard_bytes: int, metadata: Mapping[str, str] = FORMAT
) -> list[PlannedFile]:
    """One file `STEM.safetensors`, or numbered shards and their index where that is too large.

    Args:
        stem: of the names, folders included.
        pieces: all tensors, in order.
        shard_bytes: a shard holds no more, unless a single tensor does.
        metadata: of every file.
    """
    shards = _divided(pieces, shard_bytes)
    if len(shards) == 1:
        return [safetensors_file(f"{stem}.safetensors", pieces, metadata)]
    names = [
        f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    weight_map = {
        piece.name: name.rpartition("/")[2]
        for name, shard in zip(names, shards, strict=True)
        for piece in shard
    }
    total = sum(piece.nbytes for piece in pieces)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    files = [
        safetensors_file(name, shard, metadata) for name, shard in zip(names, shards, strict=True)
    ]
    return [*files, text_file(f"{stem}.safetensors.index.json", json.dumps(index, indent=2) + "\n")]


def _header(pieces: Sequence[Piece], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for piece, start in zip(pieces, _starts(pieces), strict=True):
        entries[piece.name] = {
            "dtype": _CODES[piece.kind],
            "shape": list(piece.shape),
            "data_offsets": [start, start + piece.nbytes],
        }
    raw = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    raw += b" " * (-(PREFIX_BYTES + len(raw)) % _ALIGNMENT)
    return len(raw).to_bytes(PREFIX_BYTES, "little") + raw


def _starts(pieces: Sequence[Piece]) -> list[int]:
    """Where each of these begins, when they follow one another."""
    return [0, *accumulate(piece.nbytes for piece in pieces)][: len(pieces)]


def _divided(pieces: Sequence[Piece], shard_bytes: int) -> list[list[Piece]]:
    shards: list[list[Piece]] = [[]]
    held = 0
    for piece in pieces:
        if shards[-1] and held + piece.nbytes > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(piece)
        held += piece.nbytes
    return shards
