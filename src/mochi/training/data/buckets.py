"""Buckets: the few sizes and lengths that clips are brought to, so that batches can be made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from mochi.core.errors import RequestError, VideoError
from mochi.core.sizes import PIXEL_MULTIPLE, VideoSize

AUTO = "auto"
_FORM = re.compile(r"(\d{1,6})x(\d{1,6})x(\d{1,6})")
_SHAPES = (Fraction(16, 9), Fraction(4, 3), Fraction(1), Fraction(3, 4), Fraction(9, 16))


@dataclass(frozen=True, order=True)
class Bucket:
    """Frames, height and width that several clips share; written `37x480x848`.

    Raises:
        RequestError: frames not 6k+1, height or width not a multiple of 16.
    """

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        _ = self.size  # checks

    @classmethod
    def parse(cls, text: str) -> Bucket:
        """Read `FRAMESxHEIGHTxWIDTH`.

        Raises:
            RequestError: it has another form, or breaks a rule.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise RequestError("bucket", text, "is not FRAMESxHEIGHTxWIDTH", "37x480x848")
        return cls(*map(int, match.groups()))

    @property
    def size(self) -> VideoSize:
        """The videos in it."""
        return VideoSize(self.frames, self.height, self.width)

    @property
    def shape(self) -> Fraction:
        """Width over height."""
        return Fraction(self.width, self.height)

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


def automatic(frames: int, height: int, width: int) -> tuple[Bucket, ...]:
    """Buckets of about the same number of pixels in five shapes, from 16:9 to 9:16, and the given
    one."""
    found = {Bucket(frames, height, width)}
    for shape in _SHAPES:
        rows = (height * width / float(shape)) ** 0.5
        found.add(Bucket(frames, _even(rows), _even(rows * float(shape))))
    return tuple(sorted(found))


def _even(pixels: float) -> int:
    return max(1, round(pixels / PIXEL_MULTIPLE)) * PIXEL_MULTIPLE


def choose_bucket(
    buckets: Sequence[Bucket], frames: int, height: int, width: int, upscale: bool = False
) -> Bucket:
    """The bucket that suits a video: the one that cuts least of its pictures away; of those the
    longest, then the largest.

    Args:
        buckets: to choose from.
        frames: of the video, at the wanted rate.
        height: of the video, in square pixels, upright.
        width: goes with height.
        upscale: pictures may be enlarged.

    Raises:
        VideoError: it is too short or too small for all of them. Names no file.
    """
    long_enough = [bucket for bucket in buckets if bucket.frames <= frames]
    if not long_enough:
        shortest = min(bucket.frames for bucket in buckets)
        raise VideoError(f"too short: {frames} frames at the wanted rate, {shortest} are needed")
    fitting = [bucket for bucket in long_enough if upscale or covers(height, width, bucket)]
    if not fitting:
        least = min(long_enough, key=lambda bucket: bucket.height * bucket.width)
        raise VideoError(
            f"too small: {width}x{height}, at least {least.width}x{least.height} is needed; "
            "--upscale enlarges"
        )
    shape = Fraction(width, height)
    return max(fitting, key=lambda it: (_kept(it.shape, shape), it.frames, it.height * it.width))


def covers(height: int, width: int, bucket: Bucket) -> bool:
    """Whether pictures of this size fill a bucket's without being enlarged."""
    return height >= bucket.height and width >= bucket.width


def _kept(wanted: Fraction, shape: Fraction) -> Fraction:
    """The share of a picture that stays when it is cropped to another shape."""
    return min(wanted / shape, shape / wanted)


def parse_buckets(texts: Iterable[str]) -> tuple[Bucket, ...]:
    """Several buckets, each once, in order; raises as `Bucket.parse`."""
    return tuple(sorted({Bucket.parse(text) for text in texts}))
