"""Rendered clips against the numbers that define the world."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from mochi.core.errors import RequestError
from mochi.training.shapes.world import (
    AXES,
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Combo,
    Scene,
    all_combinations,
    held_out,
    random_scene,
    render,
    training_scene,
)

RED_SQUARE = Scene("red", "square", "stays still", "black", radius=10, travel=20)


def box(clip, frame):
    """Left, right, top and bottom of what differs by half from the corner's colour, in pixels."""
    contrast = np.abs(clip[frame].astype(int) - clip[0, 0, 0].astype(int)).sum(-1)
    hit = contrast > contrast.max() / 2
    columns, rows = np.flatnonzero(hit.any(0)), np.flatnonzero(hit.any(1))
    return columns[0], columns[-1] + 1, rows[0], rows[-1] + 1


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_colours_are_exact(colour, background):
    clip = render(replace(RED_SQUARE, colour=colour, background=background))
    assert clip.shape == (25, 64, 64, 3)
    assert clip.dtype == np.uint8
    assert tuple(clip[7, 32, 32]) == COLOURS[colour]
    assert tuple(clip[7, 2, 61]) == BACKGROUNDS[background]


def test_extents_at_the_middle():
    assert box(render(replace(RED_SQUARE, radius=12.0)), 0) == (
        21,
        43,
        21,
        43,
    )  # 10.56: 21.44..42.56
    assert box(render(replace(RED_SQUARE, shape="circle")), 0) == (22, 42, 22, 42)
    left, right, top, bottom = box(render(replace(RED_SQUARE, shape="triangle")), 0)
    assert (left, right, bottom) == (22, 42, 37)
    assert top in {22, 23}  # the very tip covers less than half a pixel


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("moves left", 0, -1), ("moves right", 0, 1), ("moves up", 2, -1), ("moves down", 2, 1)],
)
@pytest.mark.parametrize("travel", [16, 24])
def test_travel_is_about_the_middle(motion, axis, sign, travel):
    clip = render(Scene("blue", "square", motion, "white", radius=10, travel=travel))
    still = box(render(replace(RED_SQUARE)), 0)
    for frame, part in ((0, -0.5), (12, 0), (24, 0.5)):
        moved = np.subtract(box(clip, frame), still)
        expected = np.zeros(4, dtype=int)
        expected[axis : axis + 2] = sign * part * travel
        np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize(("motion", "first", "last"), [("grows", 6, 14), ("shrinks", 14, 6)])
def test_growth(motion, first, last):
    clip = render(replace(RED_SQUARE, shape="circle", motion=motion))
    assert box(clip, 0) == (32 - first, 32 + first) * 2
    assert box(clip, 12) == (22, 42, 22, 42)
    assert box(clip, 24) == (32 - last, 32 + last) * 2


def test_motion_is_linear_in_time():
    clip = render(replace(RED_SQUARE, motion="moves right", travel=24.0))  # a pixel per frame
    for frame in range(24):
        np.testing.assert_array_equal(clip[frame + 1, :, 1:], clip[frame, :, :-1])


def test_still_is_still():
    clip = render(RED_SQUARE)
    assert (clip == clip[0]).all()


def test_fewer_pixels_are_the_middle_of_the_picture():
    scene = Scene("green", "triangle", "moves up", "teal", radius=9.3, travel=17.7)
    crop = render(scene, height=48, width=32)
    np.testing.assert_allclose(crop, render(scene)[:, 8:56, 16:48].astype(int), atol=1)


def test_other_frame_counts():
    scene = replace(RED_SQUARE, motion="moves up")
    np.testing.assert_array_equal(render(scene, frames=13), render(scene)[::2])
    np.testing.assert_array_equal(render(scene, frames=1), render(scene)[12:13])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 12.5}, "radius=12.5 is outside 8..12 pixels; nearest: 12"),
        ({"radius": float("nan")}, "radius=nan is outside 8..12"),
        ({"travel": 3}, "travel=3 is outside 16..24 pixels; nearest: 16"),
        ({"colour": "pink"}, "colour='pink' is none of red, green"),
        ({"motion": "left"}, "motion='left' is none of moves left"),
    ],
)
def test_scenes_outside_the_world_are_refused(change, message):
    with pytest.raises(RequestError) as refusal:
        replace(RED_SQUARE, **change)
    assert message in str(refusal.value)


def test_combinations():
    combos = all_combinations()
    assert len(combos) == len(set(combos)) == 6 * 3 * 7 * 4
    assert combos[0] == Combo("red", "circle", "moves left", "black")


def test_a_tenth_is_held_out_evenly():
    held = [combo for combo in all_combinations() if held_out(combo)]
    assert len(held) == 50
    for size, most in ((1, 0.112), (2, 0.167), (3, 0.334)):
        for fields in combinations(range(4), size):
            seen = Counter(tuple(combo[f] for f in fields) for combo in held)
            of_each = 504 / np.prod([len(AXES[f]) for f in fields])
            assert max(seen.values()) / of_each < most, fields
    for field, values in enumerate(AXES):
        assert {combo[field] for combo in held} == set(values)


def test_held_out_never_changes():
    # A trained model's card speaks of these very combinations.
    held = [combo for combo in all_combinations() if held_out(combo)]
    assert held[0] == Combo("red", "circle", "moves left", "black")
    assert held[-1] == Combo("orange", "triangle", "moves down", "white")


def test_random_scenes_cover_the_world():
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(1200)]
    for field, values in enumerate(AXES):
        counts = Counter(scene.combo[field] for scene in scenes)
        assert set(counts) == set(values)
        assert min(counts.values()) > 0.7 * 1200 / len(values)
    for name, low, high in (("radius", 8, 12), ("travel", 16, 24)):
        drawn = [getattr(scene, name) for scene in scenes]
        assert low <= min(drawn) < low + 0.1
        assert high - 0.1 < max(drawn) <= high


def test_training_scenes_avoid_what_is_held_out():
    rng = np.random.default_rng(1)
    seen = {training_scene(rng).combo for _ in range(3000)}
    assert not any(held_out(combo) for combo in seen)
    assert len(seen) > 440  # of 454


def test_names():
    assert SHAPES == ("circle", "square", "triangle")
    assert MOTIONS[4:] == ("grows", "shrinks", "stays still")
