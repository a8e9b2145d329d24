"""Encoders that take one frame at a time: H.264 in mp4, VP9 in WebM, GIF."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import av
import av.error
import av.filter
import numpy as np
import torch

from mochi.video.colour import BT709, Pixels, to_yuv
from mochi.video.formats import Kind, Quality
from mochi.video.gif import insert_comment
from mochi.video.metadata import pack

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

# A fixed number, since x264 and libvpx decide differently with another one.
_THREADS = 4
_LIMITED_RANGE = 1
_HUNDREDTH = Fraction(1, 100)  # the clock of GIF


class Sink(Protocol):
    """Where frames go, one at a time."""

    def write(self, frame_HWC: Pixels) -> None:
        """Take the next frame, uint8 RGB `(H, W, 3)`."""

    def close(self) -> None:
        """Finish: after this the file is complete."""

    def abandon(self) -> None:
        """Let go of the file, which will be thrown away."""


@dataclass(frozen=True)
class _Codec:
    """How one kind of file is encoded.

    Attributes:
        container: options of the container. `bitexact` leaves out FFmpeg's version and random
            identifiers; `faststart` puts the index before the pictures.
        crf: constant rate factor for each quality; lower is better.
    """

    name: str
    container: dict[str, str]
    options: dict[str, str]
    crf: dict[Quality, int]


# `chromaloc=1`: chroma sits in the centre, see colour.py. The crf of "high" was chosen on nano's
# clips: at 64 x 64 nothing below it is visible beside what 4:2:0 itself costs.
_CODECS: dict[Kind, _Codec] = {
    "mp4": _Codec(
        "libx264",
        {"movflags": "+faststart", "fflags": "+bitexact"},
        {"preset": "medium", "profile": "high", "x264-params": "chromaloc=1"},
        {"small": 23, "high": 14, "best": 6},
    ),
    "webm": _Codec(
        "libvpx-vp9",
        {"fflags": "+bitexact"},
        {"b": "0", "deadline": "good", "cpu-used": "3", "tile-columns": "1"},
        {"small": 34, "high": 16, "best": 8},
    ),
}


class MovieSink:
    """Writes mp4 or WebM."""

    def __init__(
        self,
        path: Path,
        kind: Kind,
        fps: Fraction,
        size: tuple[int, int],
        request: Mapping[str, Any] | None,
        quality: Quality,
    ) -> None:
        codec = _CODECS[kind]
        options = codec.options | {"crf": str(codec.crf[quality])}
        if codec.name == "libx264":
            options["x264-params"] += _without_avx512()
        self._count, self._unit = 0, 1 / fps
        self._container = av.open(str(path), "w", format=kind, options=codec.container)
        if request is not None:
            self._container.metadata["comment"] = pack(request)
        self._stream = _add_stream(self._container, codec.name, fps, size, options)
        _tag_bt709(self._stream)

    def write(self, frame_HWC: Pixels) -> None:
        """Encode one frame."""
        frame = to_yuv(frame_HWC)
        frame.pts, frame.time_base = self._count, self._unit
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder still holds, and the index."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Close without caring for the result."""
        with suppress(av.error.FFmpegError, OSError):
            self._container.close()


def _without_avx512() -> str:
    """x264's look ahead in AVX-512 reads memory that it never wrote where a row is no multiple of
    eight macroblocks (64 and 848 pixels are not), and so one mp4 in twenty differs from the others.
    Without it the bytes are the same from run to run, and on every processor from SSSE3 on."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return ""  # what is asked for is used, whether the processor has it or not
    return ":asm=AVX2"


def _add_stream(
    container: OutputContainer,
    codec: str,
    fps: Fraction,
    size: tuple[int, int],
    options: dict[str, str],
) -> VideoStream:
    stream = cast("VideoStream", container.add_stream(codec, rate=fps, options=options))
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = 1 / fps
    stream.codec_context.thread_count = _THREADS
    return stream


def _tag_bt709(stream: VideoStream) -> None:
    context = stream.codec_context
    context.color_range = _LIMITED_RANGE
    context.colorspace = context.color_primaries = context.color_trc = BT709


class GifSink:
    """Writes a GIF that loops for ever, with a palette of 256 colours for each frame.

    A palette for the whole clip would need all frames before the first is written; one for each
    frame is also closer to the picture (45 dB on a street scene), and what does not move keeps
    its colours to within 0.1 levels on average. Ordered dither stands still from frame to frame;
    error diffusion shimmers, and is no closer (measured 2026).
    """

    def __init__(
        self, path: Path, fps: Fraction, size: tuple[int, int], request: Mapping[str, Any] | None
    ) -> None:
        self._path, self._fps, self._count = path, fps, 0
        self._comment = None if request is None else pack(request)
        last_delay = str(round(100 / fps))
        self._container = av.open(
            str(path), "w", format="gif", options={"loop": "0", "final_delay": last_delay}
        )
        self._stream = self._container.add_stream("gif", rate=100)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "pal8"
        self._stream.codec_context.time_base = _HUNDREDTH
        self._graph = _palette_graph(size)

    def write(self, frame_HWC: Pixels) -> None:
        """Encode one frame."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        frame.pts, frame.time_base = round(100 * self._count / self._fps), _HUNDREDTH
        self._count += 1
        self._graph.push(frame)
        self._drain()

    def close(self) -> None:
        """Write what the filters still hold, and the comment."""
        self._graph.push(None)
        self._drain()
        self._container.mux(self._stream.encode(None))
        self._container.close()
        if self._comment is not None:
            insert_comment(self._path, self._comment)

    def abandon(self) -> None:
        """Close without caring for the result."""
        with suppress(av.error.FFmpegError, OSError):
            self._container.close()

    def _drain(self) -> None:
        for frame in _filtered(self._graph.vpull):
            self._container.mux(self._stream.encode(frame))


def _filtered(pull: Callable[[], av.VideoFrame]) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield pull()
        except (av.error.BlockingIOError, av.error.EOFError):  # hungry, and finished
            return


def _palette_graph(size: tuple[int, int]) -> av.filter.Graph:
    """rgb24 frames in, 256 colours of their own out."""
    height, width = size
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("rgb24"), time_base=_HUNDREDTH
    )
    split, sink = graph.add("split"), graph.add("buffersink")
    palette = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    apply = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=5")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(apply, 1, 0)
    palette.link_to(apply, 0, 1)
    apply.link_to(sink)
    graph.configure()
    return graph
