"""Whether a file ends before its own container says it does.

FFmpeg reads a WebM that was cut in half without a word, as a shorter video. The containers state
their length in their first bytes, so one look tells.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from mochi.video import gif

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def is_cut_off(path: Path) -> bool:
    """Whether the end of this mp4 / MOV, Matroska / WebM, AVI or GIF is missing.

    False for any other kind of file, and for a live recording that states no length.
    """
    length = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(12)
        stream.seek(0)
        if start[4:8] == b"ftyp":
            return _end_of_boxes(stream, length) > length
        if start.startswith(_EBML):
            return _end_of_segment(stream) > length
    if start.startswith(b"RIFF"):
        return int.from_bytes(start[4:8], "little") + 8 > length
    return start.startswith(b"GIF8") and not gif.is_complete(path)


def _end_of_boxes(stream: BinaryIO, length: int) -> int:
    """Where the last top-level box ends (ISO 14496-12, section 4.2)."""
    position = 0
    while position < length:
        stream.seek(position)
        header = stream.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:  # 0: as far as the file goes; less than a header: not a box, but padding
            return length
        position += size
    return position


def _end_of_segment(stream: BinaryIO) -> int:
    """Where the segment ends (RFC 8794, section 6), or 0 where its length is not stated."""
    stream.seek(len(_EBML))
    header = _variable_int(stream)
    stream.seek(header or 0, 1)
    if stream.read(4) != _SEGMENT:
        return 0
    size = _variable_int(stream)
    return 0 if size is None else stream.tell() + size


def _variable_int(stream: BinaryIO) -> int | None:
    """An EBML length: the leading zero bits count the bytes that follow; all ones is unknown."""
    first = int.from_bytes(stream.read(1), "big")
    if first == 0:
        return None
    more = 8 - first.bit_length()
    bits = 7 * (more + 1)
    value = int.from_bytes(bytes([first]) + stream.read(more), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
