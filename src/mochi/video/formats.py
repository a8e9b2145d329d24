"""The formats that can be written, and what each can hold."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from mochi.core.errors import RequestError
from mochi.core.sizes import whole

Kind = Literal["mp4", "webm", "gif", "png"]
Quality = Literal["small", "high", "best"]
QUALITIES: tuple[Quality, ...] = ("small", "high", "best")

FRAME_NAME = "frame_%05d.png"
MAX_FPS = 240
MAX_GIF_FPS = 50  # delays are whole hundredths; browsers slow anything below two of them down
MAX_SIDE = {"mp4": 16384, "webm": 16383, "gif": 65535, "png": 65535}

_KINDS: dict[str, Kind] = {".mp4": "mp4", ".webm": "webm", ".gif": "gif"}
_NUMBERED = re.compile(r"%(0\d+)?d")
_LEGAL = "NAME.mp4, NAME.webm, NAME.gif, or a folder for PNG frames (NAME/ or NAME/frame_%05d.png)"


@dataclass(frozen=True)
class Target:
    """What to write where.

    Attributes:
        path: of the file, or of the folder for PNG frames.
        kind: the format.
        frame_name: pattern of a frame's file name in a folder.
    """

    path: Path
    kind: Kind
    frame_name: str = FRAME_NAME


def target_of(path: str | os.PathLike[str]) -> Target:
    """Read the format off a name.

    `.mp4`, `.webm` and `.gif` are files. A name without a suffix or with a slash at its end is a
    folder of PNG frames, and `folder/shot_%04d.png` is a folder whose frames are so named.

    Raises:
        RequestError: no format goes with this name; lists those that exist.
    """
    text = os.fspath(path)
    name = Path(text)
    suffix = name.suffix.lower()
    if name.name in ("", "..") or "\0" in text:
        raise RequestError("output", text, "names no file", _LEGAL)
    if text.endswith(os.sep) or not suffix:
        return Target(name, "png")
    if suffix in _KINDS:
        return Target(name, _KINDS[suffix])
    if suffix == ".png" and len(_NUMBERED.findall(name.name)) == 1 and name.name.count("%") == 1:
        return Target(name.parent, "png", name.name)
    if suffix == ".png":
        raise RequestError("output", text, "names one picture for all frames", _LEGAL)
    raise RequestError("output", text, "has no known format", _LEGAL)


def check_fps(fps: object, kind: Kind = "mp4") -> Fraction:
    """The frame rate as a fraction, of at most 1001 parts a second as film and television use.

    Raises:
        RequestError: not a positive finite number, or too fast for the format.
    """
    if isinstance(fps, bool) or not isinstance(fps, (int, float, Fraction)):
        raise RequestError("fps", fps, "is not a number", 30)
    if not math.isfinite(fps) or fps <= 0:
        raise RequestError("fps", fps, "is not a positive number", 30)
    fastest = MAX_GIF_FPS if kind == "gif" else MAX_FPS
    if fps > fastest:
        raise RequestError("fps", fps, f"is more than {kind} plays", fastest)
    rate = Fraction(fps).limit_denominator(1001)
    if not rate:
        raise RequestError("fps", fps, "is too slow", Fraction(1, 1001))
    return rate


def check_size(height: int, width: int, kind: Kind) -> None:
    """Refuse a frame size that the format cannot hold.

    H.264 and VP9 in yuv420p share a colour between 2 x 2 pixels, so both sides are even.

    Raises:
        RequestError: with the nearest legal sizes.
    """
    for field, pixels in (("height", height), ("width", width)):
        whole(field, pixels)
        if pixels > MAX_SIDE[kind]:
            raise RequestError(field, pixels, f"is more than {kind} can hold", MAX_SIDE[kind])
        if kind in ("mp4", "webm") and pixels % 2:
            nearest = f"{pixels - 1} and {pixels + 1}" if pixels > 1 else "2"
            raise RequestError(field, pixels, f"is odd; {kind} needs even sides", nearest)


def check_quality(quality: str) -> Quality:
    """The quality, if it is one.

    Raises:
        RequestError: lists those that exist.
    """
    for known in QUALITIES:
        if quality == known:
            return known
    raise RequestError("quality", quality, "is unknown", ", ".join(QUALITIES))
