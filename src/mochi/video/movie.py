"""Decoding: a video file becomes upright RGB pictures with their times."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import av.error
import numpy as np
from av.sidedata.sidedata import SideData, Type
from av.stream import Disposition

from mochi.core.errors import VideoError
from mochi.video.colour import Pixels, tiny, to_rgb
from mochi.video.endings import is_cut_off

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Containers of pictures only: FFmpeg would also read text files as video, and playlists that lead
# to other files and to the network.
_CONTAINERS = "mov,matroska,gif,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,yuv4mpegpipe,ivf,h264,hevc"
_SOUND = "mp3,wav,flac,aac"  # opened only to say what they are
_OPTIONS = {"format_whitelist": f"{_CONTAINERS},{_SOUND}"}
_USUAL_FPS = 30  # of a file that does not say
_MAX_PIXELS = 8192 * 8192  # of one source frame


@dataclass(frozen=True)
class Shown:
    """One picture of a source and when it is on screen, in seconds from the first picture.

    Attributes:
        picture: makes the RGB array `(H, W, 3)`, upright; only pictures that are used pay for it.
        small: makes a tiny one to compare with others, not turned.
    """

    start: Fraction
    end: Fraction
    picture: Callable[[], Pixels]
    small: Callable[[], Pixels]


@contextmanager
def open_movie(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    """Open a video file for reading; errors in the block become VideoErrors too.

    Raises:
        VideoError: no such file, a folder, not a video, or one that ends too early.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "there is no such file"
        raise VideoError(f"{file}: {what}")
    try:
        if file.stat().st_size == 0:
            raise VideoError(f"{file}: is empty")
        if is_cut_off(file):
            raise VideoError(f"{file}: is cut off; its end is missing")
        # An absolute path cannot be taken for one of FFmpeg's protocols ("concat:a|b").
        name = str(file.absolute())
        with av.open(name, metadata_errors="replace", container_options=_OPTIONS) as container:
            yield container
    except PermissionError:
        raise VideoError(f"{file}: may not be read") from None
    except (av.error.FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise VideoError(f"{file}: is no video, or is damaged ({reason})") from error


def video_stream(container: InputContainer) -> VideoStream:
    """The video stream of a file.

    Raises:
        VideoError: it has none, or nothing here decodes it, or its frames are gigantic.
    """
    name = container.name
    films = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not films:
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        raise VideoError(f"{name}: has no video, only {', '.join(kinds) or 'empty space'}")
    stream = films[0]
    if stream.codec_context is None:
        raise VideoError(f"{name}: its video is in a codec that is not known here")
    if stream.width * stream.height > _MAX_PIXELS:
        raise VideoError(f"{name}: frames of {stream.width}x{stream.height} are too large to read")
    return stream


def _is_cover(stream: VideoStream) -> bool:
    """A music file's cover picture is a video stream too."""
    return bool(stream.disposition & Disposition.attached_pic)


def tick(stream: VideoStream) -> Fraction:
    """The unit of the times in a stream, in seconds."""
    return Fraction(stream.time_base or Fraction(1, 1000))


def frame_rate(stream: VideoStream) -> Fraction:
    """Frames per second, on average."""
    if stream.name == "gif" and stream.duration and stream.frames:
        return stream.frames / (stream.duration * tick(stream))  # FFmpeg takes the first delay
    return Fraction(stream.average_rate or stream.guessed_rate or _USUAL_FPS)


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a stored pixel over its height; 1 for nearly all files of today."""
    return Fraction(stream.sample_aspect_ratio or 1)


def shown_frames(container: InputContainer) -> Iterator[Shown]:
    """The pictures of a file in the order they are shown, decoded as they are asked for."""
    stream = video_stream(container)
    stream.thread_type = "AUTO"
    unit, usual = tick(stream), 1 / frame_rate(stream)
    first: int | None = None
    end = Fraction(0)
    for frame in container.decode(stream):
        if frame.pts is None:
            start = end  # no time of its own: it follows the one before
        else:
            first = frame.pts if first is None else first
            start = (frame.pts - first) * unit
        end = start + (frame.duration * unit if frame.duration else usual)
        yield Shown(start, end, partial(_picture, frame), partial(tiny, frame))


def _picture(frame: av.VideoFrame) -> Pixels:
    return upright(to_rgb(frame), frame)


def upright(picture_HWC: Pixels, frame: av.VideoFrame) -> Pixels:
    """Turn and mirror a picture as the file's display matrix says (ISO 14496-12, section 6.2.2).

    The matrix sends a stored point (x, y) to (a x + c y, b x + d y); phones write multiples of 90
    degrees, and a mirror for the front camera. Other angles are taken as the nearest of these.
    """
    matrix = _display_matrix(frame)
    if matrix is None:
        return picture_HWC
    a, b, c, d = matrix
    if abs(a) >= abs(b):
        left, up = a < 0, d < 0
    else:
        picture_HWC = picture_HWC.transpose(1, 0, 2)
        left, up = c < 0, b < 0
    picture_HWC = picture_HWC[:: -1 if up else 1, :: -1 if left else 1]
    return np.ascontiguousarray(picture_HWC)


def upright_size(frame: av.VideoFrame, aspect: Fraction) -> tuple[int, int, bool]:
    """Height and width of a frame on screen, and whether it has to be turned or mirrored."""
    height, width = frame.height, round(frame.width * aspect)
    matrix = _display_matrix(frame)
    if matrix is None:
        return height, width, False
    a, b, _, d = matrix
    turned = abs(a) < abs(b)
    return (width, height, True) if turned else (height, width, a < 0 or d < 0)


def count_frames(path: Path) -> int:
    """Frames of a file whose header does not say: its packets are counted, not decoded."""
    with open_movie(path) as container:
        return sum(packet.size > 0 for packet in container.demux(video_stream(container)))


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    entries = cast("Iterable[SideData]", frame.side_data)  # its annotation says Mapping, wrongly
    for entry in entries:
        if entry.type == Type.DISPLAYMATRIX:
            a, b, _, c, d = struct.unpack_from("=5i", bytes(entry))
            return a, b, c, d
    return None
