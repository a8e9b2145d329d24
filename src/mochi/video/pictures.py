"""A folder of PNG frames: written one picture at a time, and read as a video.

`request.json` in the folder holds the request and the frame rate; each picture holds the request
too, so that one frame on its own still says where it comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mochi.core.errors import RequestError, VideoError
from mochi.video.colour import SMALL_HEIGHT, SMALL_WIDTH, Pixels
from mochi.video.formats import check_fps
from mochi.video.metadata import PNG_KEYWORD, pack
from mochi.video.movie import Shown
from mochi.video.output import RECORD_NAME

_COMPRESSION = 3  # 4 % larger than Pillow's 6 on a film scene, in half the time
_USUAL_FPS = 30  # of a folder that does not say


class PictureSink:
    """Writes frames as PNG files into a folder."""

    def __init__(
        self, folder: Path, name: str, fps: Fraction, request: Mapping[str, Any] | None
    ) -> None:
        self._folder, self._name, self._count = folder, name, 0
        self._info = PngInfo()
        if request is not None:
            self._info.add_text(PNG_KEYWORD, pack(request))
        self._record = pack(request, fps=str(fps))

    def write(self, frame_HWC: Pixels) -> None:
        """Write one frame `(H, W, 3)`."""
        path = self._folder / (self._name % self._count)
        Image.fromarray(frame_HWC).save(
            path, "PNG", pnginfo=self._info, compress_level=_COMPRESSION
        )
        self._count += 1

    def close(self) -> None:
        """Write the record that marks the folder as complete."""
        (self._folder / RECORD_NAME).write_text(self._record + "\n", "ascii")

    def abandon(self) -> None:
        """Nothing is open between frames."""


def frame_rate(folder: Path) -> Fraction:
    """Frames per second that the folder's record states; 30 where it has none."""
    try:
        stated = json.loads((folder / RECORD_NAME).read_text("utf-8"))["fps"]
        return check_fps(Fraction(stated))
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, RequestError):
        return Fraction(_USUAL_FPS)


def shown_frames(folder: Path) -> Iterator[Shown]:
    """The PNG files of a folder in the order of the numbers in their names.

    Raises:
        VideoError: there are none, one is damaged, or their sizes differ.
    """
    files = sorted(folder.glob("*.png"), key=_numbers)
    if not files:
        raise VideoError(f"{folder}: holds no PNG frames")
    fps = frame_rate(folder)
    size = _picture(files[0]).shape
    for index, file in enumerate(files):
        picture = partial(_picture, file, size)
        yield Shown(index / fps, (index + 1) / fps, picture, partial(_tiny, picture))


def _tiny(picture: Callable[[], Pixels]) -> Pixels:
    small = Image.fromarray(picture()).resize((SMALL_WIDTH, SMALL_HEIGHT), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8)


def _numbers(file: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", file.name)], file.name


def _picture(file: Path, size: tuple[int, ...] | None = None) -> Pixels:
    try:
        with Image.open(file) as image:
            picture_HWC = np.asarray(image.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{file}: is no picture that can be read: {error}") from error
    if size is not None and picture_HWC.shape != size:
        height, width = picture_HWC.shape[:2]
        raise VideoError(f"{file}: is {width}x{height}, the first frame is {size[1]}x{size[0]}")
    return picture_HWC
