"""Whether a request fits the memory there is and, where it does not, what would."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mochi.core.errors import DoesNotFitError
from mochi.core.sizes import PIXEL_MULTIPLE, TIME_FACTOR, VideoSize
from mochi.memory.need import Need
from mochi.memory.plan import Room, gib

Needs = Callable[[VideoSize], Sequence[Need]]
"""What the stages of a video of some size take, in the modes that would be chosen for it."""


def check_fits(needs: Needs, size: VideoSize, room: Room, device: str) -> None:
    """Refuse a size of which a stage has no room.

    Raises:
        DoesNotFitError: names the stage, what it takes, what there is, and a size that fits.
    """
    lacking = [need for need in needs(size) if not room.has(need)]
    if not lacking:
        return
    need = max(lacking, key=lambda need: need.total)
    fitting = largest_fitting(needs, size, room)
    advice = f"{fitting} would fit" if fitting else "no size fits: the weights alone are too large"
    raise DoesNotFitError(
        f"{size} needs about {_shown(need, room, device)} to {need.stage} with --memory "
        f"{need.mode} ({gib(need.weights)} weights, {gib(need.working)} working memory); {advice}"
    )


def largest_fitting(needs: Needs, size: VideoSize, room: Room) -> VideoSize | None:
    """The largest video no larger than `size` that fits: fewer frames first, then fewer pixels.

    Fewer pixels means half the height and width, again and again; None where nothing fits.
    """

    def fits(candidate: VideoSize) -> bool:
        return all(room.has(need) for need in needs(candidate))

    while True:
        if fits(VideoSize(1, size.height, size.width)):
            return _most_frames(fits, size)
        if size.height == size.width == PIXEL_MULTIPLE:
            return None
        size = VideoSize(size.frames, _halved(size.height), _halved(size.width))


def _shown(need: Need, room: Room, device: str) -> str:
    if not room.on_cpu and need.host > room.host:
        return f"{gib(need.host)} of the host's memory, of which {gib(room.host)} are free,"
    taken = need.total + (need.host if room.on_cpu else 0)
    return f"{gib(taken)} on {device}, of which {gib(room.device)} are free,"


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
