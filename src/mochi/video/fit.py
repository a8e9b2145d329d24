"""Fitting a video to a wanted size and frame rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from PIL import Image

from mochi.video.colour import Pixels
from mochi.video.movie import Shown


def crop_box(
    height: int, width: int, to_height: int, to_width: int, pixel_aspect: Fraction = Fraction(1)
) -> tuple[float, float, float, float]:
    """The largest centred part of a picture that has the wanted shape on screen.

    Args:
        height: of the source, in stored pixels.
        width: of the source, in stored pixels.
        to_height: wanted, in square pixels.
        to_width: wanted, in square pixels.
        pixel_aspect: width of a stored pixel over its height.

    Returns:
        left, top, right and bottom, in source pixels, not rounded: a crop of half a pixel shifts
        the picture less than rounding it away would.
    """
    wanted = Fraction(to_width, to_height) / pixel_aspect
    crop_width = min(Fraction(width), height * wanted)
    crop_height = min(Fraction(height), width / wanted)
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return float(left), float(top), float(left + crop_width), float(top + crop_height)


def fit(
    picture_HWC: Pixels, height: int, width: int, pixel_aspect: Fraction = Fraction(1)
) -> Pixels:
    """Crop a picture about its centre and resize it to `(height, width, 3)`.

    The filter is Lanczos with three lobes, widened by the factor of reduction (antialiased), over
    the exact crop.
    """
    source_height, source_width = picture_HWC.shape[:2]
    if (source_height, source_width) == (height, width) and pixel_aspect == 1:
        return picture_HWC
    box = crop_box(source_height, source_width, height, width, pixel_aspect)
    image = Image.fromarray(picture_HWC).resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.asarray(image, dtype=np.uint8)


def at_rate(shown: Iterable[Shown], fps: Fraction, tolerance: Fraction) -> Iterator[Shown]:
    """What is on screen at 0, 1/fps, 2/fps ... seconds: pictures are repeated or left out.

    Args:
        shown: pictures in order of time; gaps and uneven times are fine.
        fps: wanted frames per second.
        tolerance: seconds by which a picture may start late and still count. Containers round
            times (WebM to thousandths of a second, GIF to hundredths).

    Yields:
        One entry for each frame of the result, as long as the source lasts.
    """
    count = 0
    current: Shown | None = None
    for following in shown:
        while current is not None and count / fps + tolerance < following.start:
            yield current
            count += 1
        current = following
    while current is not None and count / fps + tolerance < current.end:
        yield current
        count += 1
