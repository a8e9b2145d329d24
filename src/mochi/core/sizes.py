"""Geometry as a noun: all arithmetic between pixels, latents and tokens lives here.

The VAE compresses 8 x 8 in space and 6 in time, causally, so a video has `6k + 1` frames; the
transformer reads 2 x 2 patches of the latent, so height and width are multiples of 16 (SPEC 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from mochi.core.errors import RequestError

SPACE_FACTOR = 8
TIME_FACTOR = 6
PATCH = 2
LATENT_CHANNELS = 12
PIXEL_MULTIPLE = SPACE_FACTOR * PATCH


def nearest_frames(frames: int) -> tuple[int, int]:
    """The legal frame counts around `frames`: the largest `6k + 1` at or below it (at least 1)
    and the smallest above it; `nearest_frames(160) == (157, 163)`."""
    lower = max(0, (frames - 1) // TIME_FACTOR) * TIME_FACTOR + 1
    return lower, lower + TIME_FACTOR


def nearest_pixels(pixels: int) -> tuple[int, int]:
    """The multiples of 16 around `pixels`, the lower one at least 16."""
    lower = max(1, pixels // PIXEL_MULTIPLE) * PIXEL_MULTIPLE
    return lower, lower + PIXEL_MULTIPLE


def whole(field: str, value: object, minimum: int = 1) -> int:
    """`value` as an int, or a RequestError: bools, fractions and non-finite numbers are refused.

    Raises:
        RequestError: `value` is no whole number of at least `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise RequestError(field, value, "is not a whole number")
    if value in (float("inf"), float("-inf")) or int(value) != value:
        raise RequestError(field, value, "is not a whole number")
    if value < minimum:
        raise RequestError(field, value, f"must be at least {minimum}", minimum)
    return int(value)


@dataclass(frozen=True)
class VideoSize:
    """Frames, height and width of a video, in frames and pixels.

    Raises:
        RequestError: frames not `6k + 1`, height or width not a multiple of 16.
    """

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for field in ("frames", "height", "width"):
            object.__setattr__(self, field, whole(field, getattr(self, field)))
        if self.frames % TIME_FACTOR != 1:
            below, above = nearest_frames(self.frames)
            raise RequestError("frames", self.frames, "is not 6k+1", f"{below} and {above}")
        for field in ("height", "width"):
            pixels = getattr(self, field)
            if pixels % PIXEL_MULTIPLE:
                below, above = nearest_pixels(pixels)
                raise RequestError(
                    field, pixels, f"is not a multiple of {PIXEL_MULTIPLE}", f"{below} and {above}"
                )

    @property
    def latent(self) -> LatentSize:
        """The latent the VAE makes of it."""
        return LatentSize(
            (self.frames - 1) // TIME_FACTOR + 1,
            self.height // SPACE_FACTOR,
            self.width // SPACE_FACTOR,
        )

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.frames} frames"


@dataclass(frozen=True)
class LatentSize:
    """Frames, height and width of a latent.

    Raises:
        RequestError: a number is not positive, or height or width is odd.
    """

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for field in ("frames", "height", "width"):
            object.__setattr__(self, field, whole(f"latent {field}", getattr(self, field)))
        for field in ("height", "width"):
            if getattr(self, field) % PATCH:
                value = getattr(self, field)
                raise RequestError(
                    f"latent {field}", value, "is odd", f"{max(PATCH, value - 1)} and {value + 1}"
                )

    @property
    def patches(self) -> tuple[int, int, int]:
        """Frames, patch rows and patch columns that the transformer sees."""
        return self.frames, self.height // PATCH, self.width // PATCH

    @property
    def tokens(self) -> int:
        """Visual tokens: one for each 2 x 2 patch of each latent frame."""
        frames, rows, columns = self.patches
        return frames * rows * columns

    @property
    def video(self) -> VideoSize:
        """The video the decoder makes of it."""
        return VideoSize(
            (self.frames - 1) * TIME_FACTOR + 1,
            self.height * SPACE_FACTOR,
            self.width * SPACE_FACTOR,
        )

    def shape(
        self, batch: int = 1, channels: int = LATENT_CHANNELS
    ) -> tuple[int, int, int, int, int]:
        """Tensor shape `(batch, channels, frames, height, width)`."""
        return batch, channels, self.frames, self.height, self.width
