"""Reading a video to the size, frame rate and length that a model wants.

Array names: T = frames, H = height, W = width, C = 3 colours (RGB, uint8).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from mochi.core.errors import VideoError
from mochi.core.sizes import VideoSize, nearest_frames, whole
from mochi.video import hdr, movie, pictures
from mochi.video.colour import Pixels
from mochi.video.fit import at_rate, fit
from mochi.video.formats import check_fps
from mochi.video.movie import Shown

_LIMIT_GIB = 8.0
_MAX_TOLERANCE = Fraction(1, 200)  # seconds; half a tick, unless a tick is a whole frame (AVI)


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, as it would be seen: turned upright, in square pixels.

    Attributes:
        frames: how many there are (counted where the file does not say).
        fps: frames per second, on average.
        rotated: the file asks for its pictures to be turned or mirrored.
        transfer: `PQ` or `HLG` of HDR video, else "".
        codec: FFmpeg's name of it, `png` for a folder of frames.
    """

    frames: int
    height: int
    width: int
    fps: float
    seconds: float
    codec: str
    has_audio: bool
    rotated: bool
    transfer: str = ""


@dataclass(frozen=True)
class Source:
    """A video about to be read: a movie file, or a folder of PNG frames."""

    shown: Iterable[Shown]
    fps: Fraction
    tolerance: Fraction
    pixel_aspect: Fraction


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """A video opened for one pass; raises VideoError as `iter_frames`."""
    if path.is_dir():
        fps = pictures.frame_rate(path)
        yield Source(pictures.shown_frames(path), fps, Fraction(0), Fraction(1))
        return
    with movie.open_movie(path) as container:
        stream = movie.video_stream(container)
        fps, aspect = movie.frame_rate(stream), movie.pixel_aspect(stream)
        tolerance = min(movie.tick(stream) / 2, _MAX_TOLERANCE)
        yield Source(movie.shown_frames(container), fps, tolerance, aspect)


def iter_frames(
    path: str | os.PathLike[str],
    height: int | None = None,
    width: int | None = None,
    fps: int | float | Fraction | None = None,
) -> Iterator[Pixels]:
    """Read a video one frame at a time, in bounded memory.

    Args:
        path: a video file, or a folder of PNG frames.
        height: crop about the centre to height by width and resize (Lanczos, antialiased).
        width: goes with height. Without them, frames are as stored, turned upright.
        fps: show the video at this rate by repeating or leaving out frames; None keeps all.

    Yields:
        `(H, W, 3)` uint8 RGB.

    Raises:
        VideoError: the file is missing, no video, cut off, damaged, or has no frames.
        RequestError: height, width or fps is no positive number.
    """
    natural = height is None and width is None
    size = None if natural else (whole("height", height), whole("width", width))
    rate = None if fps is None else check_fps(fps)
    with open_source(Path(path)) as source:
        shown = source.shown if rate is None else at_rate(source.shown, rate, source.tolerance)
        last: tuple[Shown, Pixels] | None = None
        for entry in shown:
            if last is None or entry is not last[0]:
                last = entry, fitted(entry, size, source.pixel_aspect)
            yield last[1]
    if last is None:
        raise VideoError(f"{path}: has no frames")


def fitted(entry: Shown, size: tuple[int, int] | None, pixel_aspect: Fraction) -> Pixels:
    """The picture of an entry at a size (height, width); None leaves it as it is."""
    picture_HWC = entry.picture()
    return picture_HWC if size is None else fit(picture_HWC, *size, pixel_aspect)


def read_video(
    path: str | os.PathLike[str],
    size: VideoSize | tuple[int, int] | None = None,
    fps: int | float | Fraction | None = None,
    frames: int | None = None,
    limit_gib: float = _LIMIT_GIB,
) -> Pixels:
    """Read a video, or its first frames, into memory.

    Args:
        path: a video file, or a folder of PNG frames.
        size: a `VideoSize` (which also says how many frames), or `(height, width)`, to crop about
            the centre and resize to (Lanczos, antialiased); None keeps the size.
        fps: show the video at this rate by repeating or leaving out frames; None keeps all.
        frames: read exactly this many; None reads what `size` says, or all.
        limit_gib: refuse a video that needs more memory than this.

    Returns:
        uint8 RGB `(T, H, W, 3)`.

    Raises:
        VideoError: the file is missing, no video, cut off, damaged, too short, or too large.
        RequestError: a number is not positive.
    """
    if isinstance(size, VideoSize):
        frames = size.frames if frames is None else frames
        size = size.height, size.width
    wanted = None if frames is None else whole("frames", frames)
    height, width = size if size is not None else (None, None)
    found: list[Pixels] = []
    limit = limit_gib * 2**30
    for picture_HWC in islice(iter_frames(path, height, width, fps), wanted):
        found.append(picture_HWC)
        if picture_HWC.nbytes * max(len(found), wanted or 0) > limit:
            raise VideoError(_too_large(path, picture_HWC, limit_gib))
    if wanted is not None and len(found) < wanted:
        raise VideoError(_too_short(path, len(found), wanted, fps))
    return _stacked(found)


def _stacked(found: list[Pixels]) -> Pixels:
    """`np.stack`, but the frames leave the list as they are copied: one copy in memory, not two."""
    video_THWC = np.empty((len(found), *found[0].shape), np.uint8)
    found.reverse()
    for frame_HWC in video_THWC:
        frame_HWC[...] = found.pop()
    return video_THWC


def _too_large(path: str | os.PathLike[str], frame_HWC: Pixels, limit_gib: float) -> str:
    height, width = frame_HWC.shape[:2]
    fit_frames = int(limit_gib * 2**30 // frame_HWC.nbytes)
    return (
        f"{path}: needs more than {limit_gib:g} GiB; "
        f"at {width}x{height}, {fit_frames} frames would fit"
    )


def _too_short(
    path: str | os.PathLike[str], found: int, wanted: int, fps: int | float | Fraction | None
) -> str:
    rate = "" if fps is None else f" at {float(fps):g} frames per second"
    return (
        f"{path}: has {found} frames{rate}, {wanted} are needed; "
        f"the longest clip a model can take from it has {nearest_frames(found)[0]}"
    )


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """What a video is, from its headers and its first frame.

    Raises:
        VideoError: as `read_video`.
    """
    file = Path(path)
    if file.is_dir():
        return _probe_folder(file)
    with movie.open_movie(file) as container:
        stream = movie.video_stream(container)
        has_audio, codec = bool(container.streams.audio), stream.codec_context.name
        aspect, fps, frames = movie.pixel_aspect(stream), movie.frame_rate(stream), stream.frames
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise VideoError(f"{file}: has no frames")
        rows, columns, rotated = movie.upright_size(first, aspect)
        transfer = hdr.NAMES.get(int(first.color_trc), "")
    frames = frames or movie.count_frames(file)
    return VideoInfo(
        frames, rows, columns, float(fps), float(frames / fps), codec, has_audio, rotated, transfer
    )


def _probe_folder(folder: Path) -> VideoInfo:
    shown, fps = list(pictures.shown_frames(folder)), pictures.frame_rate(folder)
    height, width = shown[0].picture().shape[:2]
    seconds = float(len(shown) / fps)
    return VideoInfo(len(shown), height, width, float(fps), seconds, "png", False, False)
