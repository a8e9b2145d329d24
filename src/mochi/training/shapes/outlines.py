"""Outlines of flat shapes as signed distances, and how a distance becomes pixel coverage.

A signed distance is in pixels, negative inside. Points are offsets from the shape's centre, x to
the right and y **down** as in a picture, and broadcast against the radius, so one call draws a
whole clip: x and y as (H, W) or (T, H, W) grids and the radius as (T, 1, 1).

The first three outlines are the world's own (circle, square, triangle), by exact formulas. The
others only widen what the VAE sees.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Outline = Callable[[Field, Field, Field], Field]

SQUARE_HALF_SIDE = np.float32(0.88)
_HALF = np.float32(0.5)
TRIANGLE_BOTTOM = np.float32(0.5)  # height 1.5 r with the top at r above the centre
_TRIANGLE_SLANT = np.float32(np.hypot(1.5, 1.0))
_HEXAGON = np.float32(np.sqrt(0.75))
_STAR_POINTS = 5
_STAR_INNER = 0.45
_ELLIPSE_FLATNESS = np.float32(0.6)
_RING_WALL = np.float32(0.25)  # half its thickness


def _length(x: Field, y: Field) -> Field:
    return np.sqrt(x * x + y * y)


def circle(x: Field, y: Field, r: Field) -> Field:
    """A disc of radius r."""
    return _length(x, y) - r


def square(x: Field, y: Field, r: Field) -> Field:
    """An axis-aligned square of half side 0.88 r."""
    return np.maximum(np.abs(x), np.abs(y)) - SQUARE_HALF_SIDE * r


def triangle(x: Field, y: Field, r: Field) -> Field:
    """An upright triangle: base 2 r at the bottom, height 1.5 r, top at r above the centre."""
    # The right side runs from (0, -r) to (r, r/2); its outward normal is (1.5, -1).
    sides = (np.float32(1.5) * np.abs(x) - y - r) / _TRIANGLE_SLANT
    return np.maximum(sides, y - TRIANGLE_BOTTOM * r)


def diamond(x: Field, y: Field, r: Field) -> Field:
    """A square on its corner, from -r to r both ways."""
    return (np.abs(x) + np.abs(y) - r) * np.float32(np.sqrt(0.5))


def hexagon(x: Field, y: Field, r: Field) -> Field:
    """A regular hexagon with corners at distance r, two of them on the x axis."""
    across, up = np.abs(x), np.abs(y)
    return np.maximum(_HEXAGON * across + _HALF * up, up) - _HEXAGON * r


def ring(x: Field, y: Field, r: Field) -> Field:
    """An annulus between r / 2 and r."""
    from_middle = _length(x, y) - (1 - _RING_WALL) * r
    return np.abs(from_middle) - _RING_WALL * r


def ellipse(x: Field, y: Field, r: Field) -> Field:
    """An ellipse with half axes r and 0.6 r; first-order distance, exact at the outline."""
    b: Field = _ELLIPSE_FLATNESS * r
    level = _length(x / r, y / b)
    slope = _length(x / (r * r), y / (b * b))
    return level * (level - 1) / np.maximum(slope, np.float32(1e-6) / r)


def star(x: Field, y: Field, r: Field) -> Field:
    """A five-pointed star, one point up, points at r and notches at 0.45 r."""
    half_turn = np.pi / _STAR_POINTS
    angle = np.abs(np.mod(np.arctan2(x, -y) + half_turn, 2 * half_turn) - half_turn)
    length = _length(x, y)
    along, across = length * np.cos(angle), length * np.sin(angle)
    # One edge, from the point (r, 0) to the notch at 0.45 r and half a turn further.
    notch_x, notch_y = _STAR_INNER * np.cos(half_turn), _STAR_INNER * np.sin(half_turn)
    norm = np.hypot(notch_y, 1 - notch_x)
    distance: Field = (notch_y * (along - r) + (1 - notch_x) * across) / norm
    return distance.astype(np.float32)


OUTLINES: Mapping[str, Outline] = MappingProxyType(
    {
        "circle": circle,
        "square": square,
        "triangle": triangle,
        "diamond": diamond,
        "hexagon": hexagon,
        "ring": ring,
        "ellipse": ellipse,
        "star": star,
    }
)


def coverage(distance: Field) -> Field:
    """How much of each pixel is inside, 0 to 1: a ramp one pixel wide across the outline."""
    return np.clip(_HALF - distance, 0, 1)


def pixel_grid(height: int, width: int) -> tuple[Field, Field]:
    """Centres of the pixels, x as (1, W) and y as (H, 1); the picture spans 0..W and 0..H."""
    x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    return x, y
