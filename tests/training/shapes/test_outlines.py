"""The three outlines of the world against their plain definitions, drawn by brute force."""

import math

import numpy as np
import pytest

from mochi.training.shapes.outlines import OUTLINES, coverage, pixel_grid

FINE = 16

AREAS = {
    "circle": math.pi,
    "square": (2 * 0.88) ** 2,
    "triangle": 2 * 1.5 / 2,
    "diamond": 2.0,
    "hexagon": 1.5 * math.sqrt(3),
    "ring": math.pi * (1 - 0.25),
    "ellipse": math.pi * 0.6,
    "star": 10 * 0.5 * 0.45 * math.sin(math.pi / 5),
}


def inside(shape, x, y, r):
    """Membership by the definition alone: no distance, no coverage."""
    if shape == "circle":
        return x**2 + y**2 <= r**2
    if shape == "square":
        return (abs(x) <= 0.88 * r) & (abs(y) <= 0.88 * r)
    depth = y + r  # below the top corner; the base is 1.5 r below it and 2 r wide
    return (depth >= 0) & (depth <= 1.5 * r) & (abs(x) <= depth / (1.5 * r) * r)


def supersampled(shape, cx, cy, r, side=48):
    fine = (np.arange(side * FINE) + 0.5) / FINE
    hit = inside(shape, fine[None, :] - cx, fine[:, None] - cy, r)
    return hit.reshape(side, FINE, side, FINE).mean((1, 3))


def drawn(shape, cx, cy, r, side=48):
    x, y = pixel_grid(side, side)
    return coverage(OUTLINES[shape](x - np.float32(cx), y - np.float32(cy), np.float32(r)))


@pytest.mark.parametrize("shape", ["circle", "square", "triangle"])
@pytest.mark.parametrize(("cx", "cy", "r"), [(24, 24, 8), (23.3, 24.7, 10.4), (25.5, 22.1, 16.8)])
def test_drawing_agrees_with_the_definition(shape, cx, cy, r):
    error = np.abs(drawn(shape, cx, cy, r) - supersampled(shape, cx, cy, r))
    assert error.max() < 0.3  # at a corner or a slanted edge
    assert error.sum() < 0.02 * AREAS[shape] * r * r


@pytest.mark.parametrize("shape", OUTLINES)
def test_areas(shape):
    r = 14.3
    assert drawn(shape, 24.2, 23.6, r).sum() == pytest.approx(AREAS[shape] * r * r, rel=0.012)


@pytest.mark.parametrize("shape", OUTLINES)
def test_the_edge_is_one_pixel_wide(shape):
    # Partly covered pixels per pixel of perimeter; a hard edge has 0 and a two-pixel one 2.
    r, step = 15.0, 0.01
    x, y = pixel_grid(48, 48)
    x, y = x - np.float32(24.3), y - np.float32(23.8)
    outline = OUTLINES[shape]
    soft = ((drawn(shape, 24.3, 23.8, r) % 1) > 0).sum()
    perimeter = (
        coverage(outline(x, y, np.float32(r)) - step).sum() - drawn(shape, 24.3, 23.8, r).sum()
    ) / step
    assert soft / perimeter == pytest.approx(1, abs=0.12)


def test_extents_of_the_triangle():
    where = supersampled("triangle", 24, 24, 10) > 0
    rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    assert (rows[0], rows[-1] + 1) == (14, 29)  # top at r above the centre, height 1.5 r
    assert (columns[0], columns[-1] + 1) == (14, 34)  # base 2 r wide
    solid = drawn("triangle", 24, 24, 10)
    assert solid[28, 15:33].min() > 0.5 > solid[29].max()  # the base is the bottom row
