"""Looking through a whole video, and taking several parts out of it in one go.

Array names: T = frames, H = height, W = width, C = 3 colours (RGB, uint8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from mochi.core.errors import VideoError
from mochi.video import scenes
from mochi.video.colour import Pixels
from mochi.video.fit import at_rate
from mochi.video.formats import check_fps
from mochi.video.reader import fitted, open_source, probe

_UNEVEN = Fraction(3, 2)  # longest over shortest time of a picture: more is a variable rate
_LEAST_SCENE = Fraction(1, 2)  # seconds


@dataclass(frozen=True)
class Survey:
    """A video at one rate.

    Attributes:
        frames: at the wanted rate; not beyond the limit that was given.
        height, width: upright, in square pixels.
        seconds: of what was looked through.
        fps: of the file, on average.
        uneven: its pictures are shown for different times (variable frame rate).
        rotated: the file asks for its pictures to be turned or mirrored.
        transfer: `PQ` or `HLG` of HDR video, else "".
        scenes: first frame and number of frames of each; one where no cuts were looked for.
    """

    frames: int
    height: int
    width: int
    seconds: float
    fps: float
    uneven: bool
    rotated: bool
    transfer: str
    scenes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Span:
    """A part of a video, at the wanted rate: `frames` from `start` on, brought to a size."""

    start: int
    frames: int
    height: int
    width: int


def survey(
    path: Path, fps: int | float | Fraction, *, limit: int | None = None, cut: bool = False
) -> Survey:
    """Look through a video.

    Args:
        path: a video file.
        fps: the wanted rate.
        limit: enough frames; nothing is decoded beyond.
        cut: look for changes of scene.

    Raises:
        VideoError: it cannot be read, or has no frames.
        RequestError: fps is no rate.
    """
    rate, info = check_fps(fps), probe(path)
    count, differences = 0, scenes.Differences()
    starts: list[Fraction] = []
    with open_source(path) as source:
        last = None
        for count, shown in enumerate(
            islice(at_rate(source.shown, rate, source.tolerance), limit), 1
        ):
            if shown is not last:
                starts.append(shown.start)
                if cut:
                    differences.add(count - 1, shown.small())
                last = shown
    if not count:
        raise VideoError(f"{path}: has no frames")
    begins = [0, *scenes.cuts(differences, max(1, round(rate * _LEAST_SCENE)))]
    return Survey(
        frames=count,
        height=info.height,
        width=info.width,
        seconds=float(count / rate),
        fps=info.fps,
        uneven=_is_uneven(starts, source.fps, rate),
        rotated=info.rotated,
        transfer=info.transfer,
        scenes=tuple((one, other - one) for one, other in pairwise([*begins, count])),
    )


def _is_uneven(starts: Sequence[Fraction], fps: Fraction, rate: Fraction) -> bool:
    """Whether the times between pictures differ; told only where none was left out."""
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    return bool(gaps) and fps <= rate and max(gaps) > _UNEVEN * min(gaps)


def read_spans(
    path: Path, spans: Sequence[Span], fps: int | float | Fraction
) -> Iterator[tuple[Span, Pixels]]:
    """Parts of a video in one pass; pictures between them are decoded, not converted.

    Args:
        path: a video file.
        spans: parts that do not overlap, in order.
        fps: the wanted rate.

    Yields:
        Each span with its frames, uint8 RGB `(T, H, W, 3)`.

    Raises:
        VideoError: it cannot be read, or ends before a span does.
    """
    with open_source(path) as source:
        frames = at_rate(source.shown, check_fps(fps), source.tolerance)
        done = 0
        for span in spans:
            assert span.start >= done, "spans overlap"
            part = islice(frames, span.start - done, span.start - done + span.frames)
            pictures: list[Pixels] = []
            last = None
            for shown in part:
                size = span.height, span.width
                again = pictures and shown is last
                pictures.append(pictures[-1] if again else fitted(shown, size, source.pixel_aspect))
                last = shown
            if len(pictures) < span.frames:
                raise VideoError(f"{path}: ends at frame {span.start + len(pictures)}")
            done = span.start + span.frames
            yield span, np.stack(pictures)
