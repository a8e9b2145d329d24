"""Whether a request fits the memory there is and, where it does not, what would."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mochi.core.errors import DoesNotFitError
from mochi.core.sizes import PIXEL_MULTIPLE, TIME_FACTOR, VideoSize
from mochi.memory.estimate import Need

GIB = 2**30

Needs = Callable[[VideoSize], Sequence[Need]]
"""What the stages of a video of some size take."""


def worst(needs: Sequence[Need]) -> Need:
    """The stage that takes most; stages do not overlap."""
    return max(needs, key=lambda need: need.total)


def check_fits(needs: Needs, size: VideoSize, available: int, device: str) -> None:
    """Refuse a size whose worst stage takes more than `available` bytes.

    Raises:
        DoesNotFitError: names the stage, what it takes, what there is, and a size that fits.
    """
    need = worst(needs(size))
    if need.total <= available:
        return
    fitting = largest_fitting(needs, size, available)
    advice = f"{fitting} would fit" if fitting else "no size fits: the weights alone are too large"
    raise DoesNotFitError(
        f"{size} needs about {_gib(need.total)} on {device} to {need.stage} "
        f"({_gib(need.weights)} weights, {_gib(need.working)} working memory), "
        f"and {_gib(available)} are free; {advice}"
    )


def largest_fitting(needs: Needs, size: VideoSize, available: int) -> VideoSize | None:
    """The largest video no larger than `size` that fits: fewer frames first, then fewer pixels.

    Fewer pixels means half the height and width, again and again; None where nothing fits.
    """

    def fits(candidate: VideoSize) -> bool:
        return worst(needs(candidate)).total <= available

    while True:
        if fits(VideoSize(1, size.height, size.width)):
            return _most_frames(fits, size)
        if size.height == size.width == PIXEL_MULTIPLE:
            return None
        size = VideoSize(size.frames, _halved(size.height), _halved(size.width))


def _most_frames(fits: Callable[[VideoSize], bool], size: VideoSize) -> VideoSize:
    """By halving the interval; one frame is known to fit."""
    low, high = 0, (size.frames - 1) // TIME_FACTOR
    while low < high:
        middle = (low + high + 1) // 2
        if fits(VideoSize(TIME_FACTOR * middle + 1, size.height, size.width)):
            low = middle
        else:
            high = middle - 1
    return VideoSize(TIME_FACTOR * low + 1, size.height, size.width)


def _halved(pixels: int) -> int:
    return max(1, pixels // 2 // PIXEL_MULTIPLE) * PIXEL_MULTIPLE


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size < 1000 * GIB else f"{size / GIB:,.0f} GiB"
