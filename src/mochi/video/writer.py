"""Writing a video as its frames come.

Array names: T = frames, H = height, W = width, C = 3 colours (RGB, uint8).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error
import numpy as np

from mochi.core.errors import VideoError
from mochi.video.encode import GifSink, MovieSink, Sink
from mochi.video.formats import (
    Quality,
    Target,
    check_fps,
    check_quality,
    check_size,
    target_of,
)
from mochi.video.metadata import pack
from mochi.video.output import claim, disk_errors
from mochi.video.pictures import PictureSink


class VideoWriter:
    """Takes frames as they are decoded; made by `open_writer`.

    Attributes:
        path: the final name, which appears when the writer's block ends.
        frames_written: how many frames it has taken so far.
    """

    def __init__(self, path: Path, size: tuple[int, int], sink: Sink) -> None:
        self.path = path
        self.frames_written = 0
        self._size = size
        self._sink = sink

    def write(self, frames: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Encode and write these frames now.

        Args:
            frames: uint8 RGB `(T, H, W, 3)`, any T, or one frame `(H, W, 3)`.

        Raises:
            VideoError: another type or shape.
            OutputError: the disk refuses.
        """
        frames_THWC = self._checked(frames)
        with _write_errors(self.path):
            for frame_HWC in frames_THWC:
                self._sink.write(frame_HWC)
                self.frames_written += 1

    def _checked(self, frames: object) -> np.ndarray[Any, np.dtype[np.uint8]]:
        array = np.asarray(frames)
        if array.ndim == 3:
            array = array[None]
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (*self._size, 3):
            height, width = self._size
            raise VideoError(
                f"frames to write are {array.dtype} {array.shape}; "
                f"uint8 (frames, {height}, {width}, 3) is expected"
            )
        return array


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """What the disk refuses becomes an OutputError, what the encoder refuses a VideoError."""
    try:
        with disk_errors(path):
            yield
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: cannot be encoded: {error.strerror or error}") from error


@contextmanager
def open_writer(
    path: str | os.PathLike[str],
    fps: int | float | Fraction,
    size: tuple[int, int],
    request: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    quality: str = "high",
) -> Iterator[VideoWriter]:
    """Open a video for writing, for the length of a `with` block.

    The name appears, complete, when the block ends; when it is left by any exception nothing
    appears. The same frames, rate and request give the same video. Memory does not grow with the
    number of frames.

    Args:
        path: `.mp4` (H.264), `.webm` (VP9), `.gif`, or a folder for PNG frames: `NAME/`, a name
            without suffix, or `NAME/frame_%05d.png`. Its folder must exist.
        fps: frames per second; GIF plays 50 at most, in hundredths of a second.
        size: height and width in pixels; even for mp4 and WebM.
        request: kept in the file as JSON; `metadata.read_request` gives it back.
        overwrite: an existing result is replaced, at the end.
        quality: `small`, `high` or `best`, for mp4 and WebM; GIF and PNG have one quality.

    Yields:
        The writer.

    Raises:
        RequestError: the format, size, rate or quality is not possible; before anything is written.
        OutputError: the name exists, cannot be written, or is being written by another run; or
            the disk is full.
        VideoError: the request is not JSON; or the block ended without a frame.
    """
    target = target_of(path)
    rate = check_fps(fps, target.kind)
    check_size(*size, target.kind)
    known = check_quality(quality)
    pack(request)  # fails here, before there is anything to clean up
    with claim(target.path, overwrite, folder=target.kind == "png") as part:
        with _write_errors(target.path):
            sink = _sink(part, target, rate, size, request, known)
        writer = VideoWriter(target.path, size, sink)
        try:
            yield writer
            if not writer.frames_written:
                raise VideoError(f"{target.path}: no frame was written")
            with _write_errors(target.path):
                sink.close()
        except BaseException:
            sink.abandon()
            raise


def _sink(
    part: Path,
    target: Target,
    fps: Fraction,
    size: tuple[int, int],
    request: Mapping[str, Any] | None,
    quality: Quality,
) -> Sink:
    if target.kind == "png":
        return PictureSink(part, target.frame_name, fps, request)
    if target.kind == "gif":
        return GifSink(part, fps, size, request)
    return MovieSink(part, target.kind, fps, size, request, quality)


def write_video(
    path: str | os.PathLike[str],
    frames: np.ndarray[Any, np.dtype[np.uint8]],
    fps: int | float | Fraction,
    request: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    quality: str = "high",
) -> None:
    """Write a whole clip, uint8 RGB `(T, H, W, 3)`: `open_writer` for frames that are all there.

    Raises:
        RequestError, OutputError, VideoError: as `open_writer`.
    """
    array = np.asarray(frames)
    if array.ndim != 4:
        raise VideoError(
            f"frames to write have shape {array.shape}, not (frames, height, width, 3)"
        )
    size = int(array.shape[1]), int(array.shape[2])
    with open_writer(path, fps, size, request, overwrite=overwrite, quality=quality) as writer:
        writer.write(array)
