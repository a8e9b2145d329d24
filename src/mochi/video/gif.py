"""The outer structure of a GIF: a walk over its blocks, and the comments among them.

FFmpeg writes GIF pictures but no comments, so they are put in here (GIF89a, section 24).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mochi.core.errors import VideoError

_TRAILER, _EXTENSION, _IMAGE, _COMMENT = 0x3B, 0x21, 0x2C, 0xFE
_CHUNK = 1 << 20


def insert_comment(path: Path, text: str) -> None:
    """Put a comment before the first picture, in place and in bounded memory.

    Args:
        path: a finished GIF.
        text: ASCII.
    """
    data = text.encode("ascii")
    parts = (data[i : i + 255] for i in range(0, len(data), 255))
    block = b"\x21\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
    with path.open("r+b") as stream:
        _skip_header(stream)
        _insert(stream, stream.tell(), block)


def comments(path: Path) -> list[str]:
    """All comments of a GIF, also of one that ends too early.

    Raises:
        VideoError: a block starts with a byte that starts none.
    """
    with path.open("rb") as stream:
        return [data.decode("latin-1") for label, data in _walk(stream) if label == _COMMENT]


def is_complete(path: Path) -> bool:
    """Whether the blocks lead to the trailer before the file ends."""
    with path.open("rb") as stream:
        return any(label == _TRAILER for label, _ in _walk(stream))


def _walk(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The label and data of each block, up to the trailer or the end of the file."""
    _skip_header(stream)
    while start := stream.read(1):
        label = start[0]
        if label == _EXTENSION:
            label = (stream.read(1) or start)[0]
        elif label == _IMAGE:
            _skip_colours(stream, stream.read(9)[8:])
            stream.read(1)  # bits of the first code
        elif label == _TRAILER:
            yield label, b""
            return
        else:
            raise VideoError(f"{stream.name}: is a damaged GIF")
        yield label, _sub_blocks(stream)


def _skip_header(stream: BinaryIO) -> None:
    stream.seek(0)
    _skip_colours(stream, stream.read(13)[10:11])


def _skip_colours(stream: BinaryIO, packed: bytes) -> None:
    """Step over the colour table whose size is in this byte, if it announces one."""
    if packed and packed[0] & 0x80:
        stream.seek(3 << ((packed[0] & 7) + 1), 1)


def _sub_blocks(stream: BinaryIO) -> bytes:
    parts = []
    while (size := stream.read(1)) and size[0]:
        parts.append(stream.read(size[0]))
    return b"".join(parts)


def _insert(stream: BinaryIO, at: int, block: bytes) -> None:
    """Move what follows `at` back by the length of the block, from its end on, and fill the gap."""
    end = stream.seek(0, 2)
    while end > at:
        begin = max(at, end - _CHUNK)
        stream.seek(begin)
        data = stream.read(end - begin)
        stream.seek(begin + len(block))
        stream.write(data)
        end = begin
    stream.seek(at)
    stream.write(block)
