"""Samples small enough to be part of a page."""

# Array names: T = frames, H = height, W = width, C = 3 colours (RGB, uint8).

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mochi.core.errors import VideoError
from mochi.video.colour import Pixels
from mochi.video.reader import iter_frames, probe

_LONGER_SIDE = 160
_MOST_FRAMES = 16
_QUALITY = 70
_GAP = 4


def small_frames(path: Path) -> list[Pixels]:
    """At most sixteen frames of a video, evenly spread, at most 160 pixels on the longer side.

    Raises:
        VideoError: it cannot be read.
    """
    info = probe(path)
    factor = min(1.0, _LONGER_SIDE / max(info.height, info.width))
    height, width = (max(1, round(side * factor)) for side in (info.height, info.width))
    step = max(1, -(-info.frames // _MOST_FRAMES))
    return list(iter_frames(path, height, width))[::step]


def moving_picture(frames: Sequence[Pixels], seconds: float) -> str:
    """Frames as a `data:` address of an animated WebP."""
    images = [Image.fromarray(frame_HWC) for frame_HWC in frames]
    file = io.BytesIO()
    each = max(20, round(1000 * seconds / len(images)))
    images[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=each,
        loop=0,
        quality=_QUALITY,
    )
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def grid(rows: Sequence[Sequence[Pixels | None]]) -> Image.Image | None:
    """Pictures in rows and columns; None where there is none at all."""
    sizes = [picture.shape[:2] for row in rows for picture in row if picture is not None]
    if not sizes:
        return None
    height, width = (max(sides) + _GAP for sides in zip(*sizes, strict=True))
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * width + _GAP, len(rows) * height + _GAP), (128, 128, 128))
    for top, row in enumerate(rows):
        for left, picture in enumerate(row):
            if picture is not None:
                place = left * width + _GAP, top * height + _GAP
                sheet.paste(Image.fromarray(picture), place)
    return sheet


class Thumbnails:
    """Samples as pages show them, each read once."""

    def __init__(self) -> None:
        self._moving: dict[Path, str] = {}
        self._still: dict[Path, Pixels | None] = {}

    def moving(self, path: Path) -> str:
        """A `data:` address; "" where the video is gone."""
        self._read(path)
        return self._moving[path]

    def still(self, path: Path) -> Pixels | None:
        """The frame in the middle; None where the video is gone."""
        self._read(path)
        return self._still[path]

    def _read(self, path: Path) -> None:
        if path in self._moving:
            return
        try:
            frames, seconds = small_frames(path), probe(path).seconds
        except VideoError:
            self._moving[path], self._still[path] = "", None
            return
        self._moving[path] = moving_picture(frames, seconds)
        self._still[path] = frames[len(frames) // 2]
