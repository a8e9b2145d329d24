"""What a file is by its first bytes: names lie."""

from __future__ import annotations

from pathlib import Path

ENDINGS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".gif", ".avi", ".mpg", ".mpeg", ".ts")
"""Of files that are meant to be videos, whatever is in them."""

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # of mp4 and mov, after a size
_PICTURES = (b"heic", b"heix", b"mif1", b"avif")  # still pictures in the same container
_STARTS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"GIF87a",
    b"GIF89a",
    b"FLV\x01",
    b"OggS",
    b"\x00\x00\x01\xba",  # MPEG program stream
)
_TS_BYTES = 188  # of a packet of an MPEG transport stream


def is_movie(path: Path) -> bool:
    """Whether a file begins like a container of video.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_TS_BYTES + 1)
    if head[4:8] in _BOXES:
        return not (head[4:8] == b"ftyp" and head[8:12] in _PICTURES)
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    packets = len(head) > _TS_BYTES and head[0] == head[_TS_BYTES] == 0x47
    return packets or head.startswith(_STARTS)
