"""A video as a GIF, as one of its frames, as a sheet of frames."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SHEET_COLUMNS, _SHEET_FRAMES = 4, 16


def _gif(video: Path, made: Path) -> None:
    from mochi.video.formats import MAX_GIF_FPS
    from mochi.video.reader import iter_frames, probe
    from mochi.video.writer import open_writer

    info = probe(video)
    fps = min(info.fps, MAX_GIF_FPS)
    with open_writer(made, fps, (info.height, info.width)) as writer:
        for frame_HWC in iter_frames(video, fps=fps):
            writer.write(frame_HWC)


def _thumbnail(video: Path, made: Path) -> None:
    from mochi.video.reader import iter_frames, probe

    middle = probe(video).frames // 2
    _save(next(itertools.islice(iter_frames(video), middle, None)), made)


def _last_frame(video: Path, made: Path) -> None:
    from mochi.video.reader import iter_frames

    last = None
    for frame_HWC in iter_frames(video):
        last = frame_HWC
    _save(last, made)


def _spritesheet(video: Path, made: Path) -> None:
    """Up to 16 frames, evenly spread, in rows of 4; what is left of the last row is black."""
    import numpy as np

    from mochi.video.reader import iter_frames, probe

    count = probe(video).frames
    chosen = set(np.linspace(0, count - 1, min(count, _SHEET_FRAMES)).round().astype(int).tolist())
    frames = [frame for number, frame in enumerate(iter_frames(video)) if number in chosen]
    rows = -(-len(frames) // _SHEET_COLUMNS)
    height, width, colours = frames[0].shape
    sheet = np.zeros((rows * height, _SHEET_COLUMNS * width, colours), np.uint8)
    for number, frame in enumerate(frames):
        row, column = divmod(number, _SHEET_COLUMNS)
        top, left = row * height, column * width
        sheet[top : top + height, left : left + width] = frame
    _save(sheet, made)


def _save(pixels_HWC: Any, made: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels_HWC).save(made, format="PNG")


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "gif": _gif,
    "thumbnail": _thumbnail,
    "last_frame": _last_frame,
    "spritesheet": _spritesheet,
}
