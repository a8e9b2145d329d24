"""The exact world of shapes: one shape of one colour, one motion, one plain background.

Lengths are pixels of a 64x64 picture whose pixel (0, 0) covers [0, 1) x [0, 1), so its middle is
(32, 32). A motion is linear in time from the first frame to the last and its midpoint is the
middle of the picture (plus the scene's offset, zero by default).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mochi.core.errors import RequestError
from mochi.training.shapes.outlines import OUTLINES, Field, Outline, coverage, pixel_grid

Rgb = tuple[int, int, int]

COLOURS: Mapping[str, Rgb] = MappingProxyType(
    {
        "red": (230, 25, 25),
        "green": (25, 205, 50),
        "blue": (40, 65, 240),
        "yellow": (242, 230, 25),
        "purple": (150, 40, 205),
        "orange": (255, 140, 15),
    }
)
BACKGROUNDS: Mapping[str, Rgb] = MappingProxyType(
    {
        "black": (8, 8, 8),
        "white": (247, 247, 247),
        "gray": (128, 128, 128),
        "teal": (0, 115, 115),
    }
)
SHAPES = ("circle", "square", "triangle")

# Direction of travel (x right, y down) for the four that travel.
DIRECTIONS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "moves left": (-1, 0),
        "moves right": (1, 0),
        "moves up": (0, -1),
        "moves down": (0, 1),
    }
)
MOTIONS = (*DIRECTIONS, "grows", "shrinks", "stays still")

AXES = (tuple(COLOURS), SHAPES, MOTIONS, tuple(BACKGROUNDS))  # in the order of a Combo

FRAMES, HEIGHT, WIDTH = 25, 64, 64
RADIUS_RANGE = (8.0, 12.0)
TRAVEL_RANGE = (16.0, 24.0)
SMALL, LARGE = 0.6, 1.4  # radius at the two ends of growing and shrinking, as a factor

# A combination is held out when this sum over its places in the lists above is 0 modulo 10.
# Found by search: 50 of the 504, every value 9 to 11 % of them, every pair of values at most
# 1 in 6 and every triple at most 1 in 3, so all that is unseen is the whole.
_HELD_OUT_WEIGHTS = (1, 3, 1, 6)
_HELD_OUT_EVERY = 10


class Combo(NamedTuple):
    """What a prompt says: one value of each attribute."""

    colour: str
    shape: str
    motion: str
    background: str


@dataclass(frozen=True)
class Scene:
    """A combination with its free numbers: radius, travel and an offset of the path, in pixels.

    Raises:
        RequestError: an attribute or number outside the world.
    """

    colour: str
    shape: str
    motion: str
    background: str
    radius: float = 10.0
    travel: float = 20.0
    offset_x: float = 0.0
    offset_y: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what this world does not have."""
        check_combo(self.combo)
        for name, limits in (("radius", RADIUS_RANGE), ("travel", TRAVEL_RANGE)):
            value = getattr(self, name)
            if not limits[0] <= value <= limits[1]:
                nearest = min(max(value, limits[0]), limits[1])
                rule = f"is outside {limits[0]:g}..{limits[1]:g} pixels"
                raise RequestError(name, value, rule, nearest)

    @property
    def combo(self) -> Combo:
        """The scene without its free numbers."""
        return Combo(self.colour, self.shape, self.motion, self.background)


def check_combo(combo: Combo) -> None:
    """Raise RequestError, with the legal values, when an attribute is not of this world."""
    for field, value, legal in zip(Combo._fields, combo, AXES, strict=True):
        if value not in legal:
            raise RequestError(field, value, f"is none of {', '.join(legal)}")


def all_combinations() -> tuple[Combo, ...]:
    """All 6 x 3 x 7 x 4 = 504 combinations in a fixed order."""
    return tuple(Combo(*values) for values in product(*AXES))


def held_out(combo: Combo) -> bool:
    """Whether a combination belongs to the tenth that is never trained (50 of 504)."""
    places = (axis.index(value) for axis, value in zip(AXES, combo, strict=True))
    total = sum(weight * place for weight, place in zip(_HELD_OUT_WEIGHTS, places, strict=True))
    return total % _HELD_OUT_EVERY == 0


def scene_of(combo: Combo, rng: np.random.Generator) -> Scene:
    """A scene of this combination with a random radius and travel, its path about the middle."""
    return Scene(*combo, radius=rng.uniform(*RADIUS_RANGE), travel=rng.uniform(*TRAVEL_RANGE))


def random_scene(rng: np.random.Generator) -> Scene:
    """Any scene of the world; the attributes are independent and evenly likely."""
    return scene_of(Combo(*(axis[rng.integers(len(axis))] for axis in AXES)), rng)


def training_scene(rng: np.random.Generator) -> Scene:
    """Any scene of the world whose combination is not held out."""
    while held_out((scene := random_scene(rng)).combo):
        pass
    return scene


class Path(NamedTuple):
    """Centre relative to the middle of the picture, and radius, per moment; each (T,) pixels."""

    x: Field
    y: Field
    radius: Field


def path(scene: Scene, moments: NDArray[np.floating]) -> Path:
    """Where the shape is at the given moments (T,), 0 being the first frame and 1 the last."""
    moments = np.asarray(moments, dtype=np.float64)
    step_x, step_y = DIRECTIONS.get(scene.motion, (0, 0))
    along = scene.travel * (moments - 0.5)
    growth = {"grows": moments, "shrinks": 1 - moments}.get(scene.motion)
    factor = np.ones_like(moments) if growth is None else SMALL + (LARGE - SMALL) * growth
    return Path(
        (scene.offset_x + step_x * along).astype(np.float32),
        (scene.offset_y + step_y * along).astype(np.float32),
        (scene.radius * factor).astype(np.float32),
    )


def moments_of(frames: int) -> NDArray[np.float64]:
    """Evenly spaced moments from 0 to 1; a single frame shows the middle of the clip."""
    return np.linspace(0.0, 1.0, frames) if frames > 1 else np.array([0.5])


def render_at(
    scene: Scene,
    moments: NDArray[np.floating],
    height: int,
    width: int,
    outline: Outline | None = None,
    rgb: Rgb | None = None,
) -> Field:
    """Draw a scene at the given moments as float32 (3, T, H, W), 0 to 255, not rounded.

    Args:
        outline: in place of the scene's shape: one that this world does not have.
        rgb: in place of its colour, likewise.
    """
    where = path(scene, moments)
    x, y = pixel_grid(height, width)
    dx = x - (where.x + np.float32(width / 2))[:, None, None]
    dy = y - (where.y + np.float32(height / 2))[:, None, None]
    inside = coverage((outline or OUTLINES[scene.shape])(dx, dy, where.radius[:, None, None]))
    back = np.array(BACKGROUNDS[scene.background], dtype=np.float32)[:, None, None, None]
    front = np.array(rgb or COLOURS[scene.colour], dtype=np.float32)[:, None, None, None]
    return back + inside * (front - back)


def render(
    scene: Scene,
    frames: int = FRAMES,
    height: int = HEIGHT,
    width: int = WIDTH,
    outline: Outline | None = None,
    rgb: Rgb | None = None,
) -> NDArray[np.uint8]:
    """Draw a scene as uint8 (T, H, W, 3), edges anti-aliased over one pixel.

    Sizes other than 64x64 show more or less of the background: lengths stay in pixels. What stands
    in for shape and colour is as in `render_at`.
    """
    drawn = render_at(scene, moments_of(frames), height, width, outline, rgb)
    clip_CTHW = np.rint(drawn).astype(np.uint8)
    return np.ascontiguousarray(clip_CTHW.transpose(1, 2, 3, 0))
