"""Reads a clip back: which colour, shape, motion and background it shows, and how clearly.

Colours are the nearest named ones. How much of a pixel belongs to the shape comes from its place
on the line between the two measured colours, so soft edges count in part. The motion is read off
the centroid's path and the size over time; the shape is the exact outline that overlaps best.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mochi.core.errors import RequestError
from mochi.training.shapes.captions import HasAttributes
from mochi.training.shapes.outlines import OUTLINES, SQUARE_HALF_SIDE, Field, coverage, pixel_grid
from mochi.training.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    LARGE,
    SHAPES,
    SMALL,
    TRAVEL_RANGE,
    Combo,
    Rgb,
    moments_of,
)

UNCLEAR = "unclear"
# Areas of the outlines of radius 1; the last three are not of the world, and can be asked for.
_AREAS = {
    "circle": np.pi,
    "square": 4 * float(SQUARE_HALF_SIDE) ** 2,
    "triangle": 1.5,
    "diamond": 2.0,
    "ring": 0.75 * np.pi,
    "star": 1.3225,
}
_BORDER = 3  # pixels along the picture's edge that no clip of the world covers
_FARTHEST_COLOUR = 60.0  # RGB distance at which a colour loses its name; names are 91+ apart
_FAINTEST_SHAPE = 40.0  # RGB distance to the background below which nothing is there
_LEAST_AREA = 12.0  # square pixels; the world's smallest shape has 35
_LEAST_SEEN = 0.8  # of the frames
_LEAST_OVERLAP = 0.80  # 0.98 and more as rendered, 0.85 in heavy blur
_LEAST_LEAD = 0.005  # of the best outline over the next; 0.14 as rendered, 0.05 in heavy blur
_HALFWAY = 0.5  # of the usual travel or growth: less is standing still
_FITTED_FRAMES = 5
_STEEPNESS = 3.0  # edges are made this much sharper before they are compared, so blur hardly counts
_NEAR = 3  # pixels around the solid part of a shape in which its soft edge may lie
# Small changes (x, y in pixels, radius as a factor) tried around the outline's estimate.
_NUDGES = np.array(list(product((-0.7, 0, 0.7), (-0.7, 0, 0.7), (0.93, 1, 1.07))), dtype=np.float32)


@dataclass(frozen=True)
class Verdict:
    """What a clip shows; an attribute that cannot be told is `unclear`.

    Attributes:
        colour: one of COLOURS.
        shape: one of SHAPES.
        motion: one of MOTIONS.
        background: one of BACKGROUNDS.
        margins: per attribute how clear it is: about 1 (shape: 0.1 to 0.4) as rendered, 0 for a
            toss-up, negative when unclear.
        overlap: intersection over union of the clip with its best outline, 0 to 1.
        radius: of that outline halfway through the clip, pixels.
        travel_x: of the centroid from the first frame to the last, pixels to the right.
        travel_y: the same, pixels down.
        growth: radius in the last frame over radius in the first.
    """

    colour: str
    shape: str
    motion: str
    background: str
    margins: Mapping[str, float]
    overlap: float = 0.0
    radius: float = 0.0
    travel_x: float = 0.0
    travel_y: float = 0.0
    growth: float = 1.0

    @property
    def combo(self) -> Combo:
        """The four attributes."""
        return Combo(self.colour, self.shape, self.motion, self.background)

    def correct(self, wanted: HasAttributes) -> dict[str, bool]:
        """Per attribute whether the clip shows what was wanted."""
        return {name: getattr(self, name) == getattr(wanted, name) for name in Combo._fields}

    def matches(self, wanted: HasAttributes) -> bool:
        """Whether all four attributes are as wanted."""
        return all(self.correct(wanted).values())


def judge(
    frames: NDArray[np.uint8],
    colours: Mapping[str, Rgb] = COLOURS,
    shapes: Sequence[str] = SHAPES,
) -> Verdict:
    """Read a clip (T, H, W, 3), uint8 RGB, of at least two frames, at the world's scale.

    Args:
        frames: the clip.
        colours, shapes: what it may show; a model may have learned more than the world has
            (`diamond`, `ring` and `star` can be told from the others).

    Raises:
        RequestError: `frames` is no such array.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        shown = f"{frames.dtype} array of shape {frames.shape}"
        raise RequestError("frames", shown, "is not uint8 (T, H, W, 3) with T of 2 or more")
    clip_THWC = frames.astype(np.float32)
    ground_C = _border_colour(clip_THWC)
    background, clear_ground = _nearest(ground_C, BACKGROUNDS)
    colour_C = _shape_colour(clip_THWC, ground_C)
    share_THW = _share(clip_THWC, ground_C, colour_C)
    track = _track(share_THW)
    if track is None:
        margins = {"colour": -1.0, "shape": -1.0, "motion": -1.0, "background": clear_ground}
        return Verdict(UNCLEAR, UNCLEAR, UNCLEAR, background, MappingProxyType(margins))
    colour, clear_colour = _nearest(colour_C, colours)
    shape, clear_shape, overlap = _best_shape(share_THW, track, shapes)
    motion, clear_motion = _motion(track)
    margins = {"colour": clear_colour, "shape": clear_shape}
    margins |= {"motion": clear_motion, "background": clear_ground}
    return Verdict(
        colour,
        shape,
        motion,
        background,
        margins=MappingProxyType(margins),
        overlap=overlap,
        radius=track.size / float(np.sqrt(_AREAS.get(shape, np.pi))),
        travel_x=track.travel_x,
        travel_y=track.travel_y,
        growth=track.growth,
    )


def _border_colour(clip_THWC: Field) -> Field:
    """Median colour (3,) of the picture's edge over the whole clip."""
    edge = np.ones(clip_THWC.shape[1:3], dtype=bool)
    edge[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return np.median(clip_THWC[:, edge], axis=(0, 1)).astype(np.float32)


def _shape_colour(clip_THWC: Field, ground_C: Field) -> Field:
    """Median colour (3,) of the pixels that differ most from the background."""
    contrast_THW = np.linalg.norm(clip_THWC - ground_C, axis=-1)
    strongest = np.quantile(contrast_THW, 0.998)
    return np.median(clip_THWC[contrast_THW >= 0.75 * strongest], axis=0).astype(np.float32)


def _nearest(colour_C: Field, named: Mapping[str, Rgb]) -> tuple[str, float]:
    """The nearest name and its margin: 1 on the colour itself, 0 halfway to the next one."""
    distances = {name: float(np.linalg.norm(colour_C - rgb)) for name, rgb in named.items()}
    first, second = sorted(distances, key=distances.__getitem__)[:2]
    if distances[first] > _FARTHEST_COLOUR:
        return UNCLEAR, 1 - distances[first] / _FARTHEST_COLOUR
    return first, (distances[second] - distances[first]) / (distances[second] + distances[first])


def _share(clip_THWC: Field, ground_C: Field, colour_C: Field) -> Field:
    """How much of each pixel belongs to the shape, 0 to 1; exactly 0 away from its solid part."""
    line_C = colour_C - ground_C
    if np.linalg.norm(line_C) < _FAINTEST_SHAPE:
        return np.zeros(clip_THWC.shape[:3], dtype=np.float32)
    share_THW = (clip_THWC - ground_C) @ line_C / (line_C @ line_C)
    near_THW = share_THW > 0.5
    for axis in (1, 2):
        near_THW = np.any([_shifted(near_THW, n, axis) for n in range(-_NEAR, _NEAR + 1)], axis=0)
    return np.where(near_THW, np.clip(share_THW, 0, 1), np.float32(0))


def _shifted(mask: NDArray[np.bool_], by: int, axis: int) -> NDArray[np.bool_]:
    """`mask` moved along an axis, nothing coming in at the far side."""
    moved = np.roll(mask, by, axis)
    entering = slice(0, by) if by >= 0 else slice(by, None)
    moved[(slice(None),) * axis + (entering,)] = False
    return moved


@dataclass(frozen=True)
class _Track:
    """The shape over time: centroid and root of the area per frame, and their trends."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    sizes: NDArray[np.float64]
    seen: NDArray[np.bool_]
    travel_x: float
    travel_y: float
    size: float  # halfway through the clip
    growth: float


def _track(share_THW: Field) -> _Track | None:
    """Follow the shape, or None when too many frames do not show one."""
    area_T = share_THW.sum((1, 2), dtype=np.float64)
    seen = area_T >= _LEAST_AREA
    if seen.mean() < _LEAST_SEEN:
        return None
    columns, rows = pixel_grid(*share_THW.shape[1:])
    x = (share_THW * columns).sum((1, 2)) / np.maximum(area_T, 1e-6)
    y = (share_THW * rows).sum((1, 2)) / np.maximum(area_T, 1e-6)
    sizes = np.sqrt(area_T)
    moments = moments_of(len(share_THW))
    (slope_x, _), (slope_y, _), (slope, start) = (
        np.polyfit(moments[seen], values[seen], 1) for values in (x, y, sizes)
    )
    smallest = 0.05 * sizes.max()  # keeps the growth of a vanishing shape finite
    growth = max(start + slope, smallest) / max(start, smallest)
    halfway = float(start + slope / 2)
    return _Track(x, y, sizes, seen, float(slope_x), float(slope_y), halfway, float(growth))


def _motion(track: _Track) -> tuple[str, float]:
    """The motion and its margin, 1 being as clear as the usual travel or growth."""
    usual = sum(TRAVEL_RANGE) / 2
    strength = {
        motion: (x * track.travel_x + y * track.travel_y) / usual
        for motion, (x, y) in DIRECTIONS.items()
    }
    strength["grows"] = float(np.log(track.growth) / np.log(LARGE / SMALL))
    strength["shrinks"] = -strength["grows"]
    first, second = sorted(strength, key=strength.__getitem__, reverse=True)[:2]
    if strength[first] < _HALFWAY:
        return "stays still", 1 - strength[first] / _HALFWAY
    if strength[second] >= _HALFWAY:
        return UNCLEAR, 1 - strength[second] / _HALFWAY
    return first, strength[first] / _HALFWAY - 1


def _best_shape(share_THW: Field, track: _Track, shapes: Sequence[str]) -> tuple[str, float, float]:
    """The shape that overlaps best, its lead over the next one, and its overlap."""
    seen = np.flatnonzero(track.seen)
    chosen = seen[np.linspace(0, len(seen) - 1, min(_FITTED_FRAMES, len(seen))).astype(int)]
    overlaps = {shape: _overlap(shape, share_THW, track, chosen) for shape in shapes}
    first, second = sorted(overlaps, key=overlaps.__getitem__, reverse=True)[:2]
    lead = overlaps[first] - overlaps[second]
    if overlaps[first] < _LEAST_OVERLAP or lead < _LEAST_LEAD:
        return UNCLEAR, min(overlaps[first] - _LEAST_OVERLAP, lead - _LEAST_LEAD), overlaps[first]
    return first, lead, overlaps[first]


def _overlap(shape: str, share_THW: Field, track: _Track, chosen: NDArray[np.intp]) -> float:
    """Intersection over union with the exact outline at its best place, over chosen frames."""
    both = either = 0.0
    x, y = pixel_grid(*share_THW.shape[1:])
    for frame in chosen:
        nudge_x, nudge_y, scale = _NUDGES.T[:, :, None, None]
        dx = x - np.float32(track.x[frame]) - nudge_x
        dy = y - np.float32(track.y[frame]) - nudge_y
        radius = np.float32(track.sizes[frame] / np.sqrt(_AREAS[shape])) * scale
        ideal_NHW = coverage(np.float32(_STEEPNESS) * OUTLINES[shape](dx, dy, radius))
        found_HW = np.clip((share_THW[frame] - 0.5) * _STEEPNESS + 0.5, 0, 1)
        shared_N = np.minimum(ideal_NHW, found_HW).sum((1, 2))
        joined_N = np.maximum(ideal_NHW, found_HW).sum((1, 2))
        best = int(np.argmax(shared_N / joined_N))
        both, either = both + float(shared_N[best]), either + float(joined_N[best])
    return both / either
