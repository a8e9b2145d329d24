"""The checker on rendered truth, on damaged truth, and on what is not of this world."""

import io
from dataclasses import replace

import av
import numpy as np
import pytest

from mochi.core.errors import RequestError
from mochi.training.shapes.checker import UNCLEAR, judge
from mochi.training.shapes.outlines import OUTLINES, coverage, pixel_grid
from mochi.training.shapes.world import (
    RADIUS_RANGE,
    TRAVEL_RANGE,
    Combo,
    Scene,
    all_combinations,
    render,
    scene_of,
)

SCENE = Scene("purple", "triangle", "moves left", "gray", radius=8.0, travel=16.0)
TURNED = {"moves left": "moves right", "moves right": "moves left"}
TURNED |= {"grows": "shrinks", "shrinks": "grows"}


def blurred(clip, sigma):
    """Gaussian blur of every frame, edges repeated."""
    kernel = np.exp(-(np.arange(-4, 5) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    soft = clip.astype(np.float32)
    for axis in (1, 2):
        pad = [(4, 4) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(soft, pad, mode="edge")
        size = clip.shape[axis]
        soft = sum(k * padded.take(range(i, i + size), axis) for i, k in enumerate(kernel))
    return np.rint(soft).astype(np.uint8)


def noisy(clip, sigma, rng):
    return np.clip(clip + rng.normal(0, sigma, clip.shape), 0, 255).astype(np.uint8)


def through_mp4(clip):
    """The clip as it comes back from an H.264 file of the usual quality."""
    with io.BytesIO() as file:
        with av.open(file, "w", format="mp4") as out:
            stream = out.add_stream("libx264", rate=30, options={"crf": "18", "threads": "1"})
            stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "yuv420p"
            for frame in clip:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode())
        file.seek(0)
        with av.open(file) as source:
            return np.stack([f.to_ndarray(format="rgb24") for f in source.decode(video=0)])


def some_scenes(every, rng):
    """Every nth combination; half with extreme radius and travel."""
    for combo in all_combinations()[::every]:
        if rng.random() < 0.5:
            yield scene_of(combo, rng)
        else:
            yield Scene(*combo, radius=rng.choice(RADIUS_RANGE), travel=rng.choice(TRAVEL_RANGE))


def assert_read(scene, clip):
    verdict = judge(clip)
    assert verdict.matches(scene), (scene, verdict)
    return verdict


def test_rendered_truth_with_its_numbers():
    rng = np.random.default_rng(0)
    for scene in some_scenes(5, rng):  # 5 shares no factor with 504: every value and pair occurs
        verdict = assert_read(scene, render(scene))
        assert verdict.overlap > 0.98
        assert verdict.radius == pytest.approx(scene.radius, abs=0.05)
        assert min(verdict.margins.values()) > 0.12
        if scene.motion.startswith("moves"):
            far = np.hypot(verdict.travel_x, verdict.travel_y)
            assert far == pytest.approx(scene.travel, abs=0.05)
            assert verdict.growth == pytest.approx(1, abs=0.01)
        else:
            expected = {"grows": 1.4 / 0.6, "shrinks": 0.6 / 1.4}.get(scene.motion, 1)
            assert verdict.growth == pytest.approx(expected, rel=0.02)


@pytest.mark.long
def test_thousands_of_rendered_clips():
    rng = np.random.default_rng(1)
    for _ in range(8):
        for scene in some_scenes(1, rng):
            clip = render(scene)
            assert_read(scene, clip)
            assert_read(scene, noisy(blurred(clip, 1.2), 6, rng))


def test_blur_and_noise_do_not_matter():
    rng = np.random.default_rng(2)
    for scene in some_scenes(19, rng):
        assert_read(scene, noisy(blurred(render(scene), 1.5), 6, rng))


def test_compression_does_not_matter():
    rng = np.random.default_rng(3)
    for scene in some_scenes(37, rng):
        assert_read(scene, through_mp4(render(scene)))


def test_a_shift_of_colour_and_place_does_not_matter():
    scene = replace(SCENE, offset_x=3.3, offset_y=-2.6)
    assert_read(scene, np.clip(render(scene).astype(int) + [12, -9, 10], 0, 255).astype(np.uint8))


@pytest.mark.parametrize("motion", TURNED)
def test_time_turned_round_turns_the_motion_round(motion):
    scene = replace(SCENE, motion=motion)
    assert judge(render(scene)[::-1].copy()).motion == TURNED[motion]


def test_a_picture_on_its_side_moves_the_other_way():
    square = replace(SCENE, shape="square")
    assert judge(render(square).transpose(0, 2, 1, 3).copy()).combo == Combo(
        "purple", "square", "moves up", "gray"
    )


def test_verdicts_tell_right_from_wrong():
    verdict = judge(render(SCENE))
    assert verdict.matches(SCENE)
    assert verdict.matches(SCENE.combo)
    for wrong in (
        {"colour": "blue"},
        {"shape": "circle"},
        {"motion": "moves right"},
        {"background": "teal"},
    ):
        other = replace(SCENE, **wrong)
        assert not verdict.matches(other)
        (field,) = wrong
        assert [name for name, right in verdict.correct(other).items() if not right] == [field]


def still_of(outline, **colours):
    x, y = pixel_grid(64, 64)
    inside = coverage(outline(x - 32, y - 32, np.float32(10)))[None, ..., None]
    front, back = np.float32(colours.get("front", (230, 25, 25))), np.float32((8, 8, 8))
    return np.repeat(np.rint(back + inside * (front - back)).astype(np.uint8), 25, axis=0)


def upside_down(x, y, r):
    return OUTLINES["triangle"](x, -y, r)


@pytest.mark.parametrize("outline", [OUTLINES["star"], OUTLINES["ring"], upside_down])
def test_foreign_outlines_are_no_shape_of_ours(outline):
    verdict = judge(still_of(outline))
    assert verdict.shape == UNCLEAR
    assert verdict.margins["shape"] < 0
    assert (verdict.colour, verdict.motion, verdict.background) == ("red", "stays still", "black")


@pytest.mark.parametrize("front", [(0, 255, 255), (255, 192, 203), (128, 128, 128)])
def test_foreign_colours_have_no_name(front):
    verdict = judge(still_of(OUTLINES["circle"], front=front))
    assert verdict.colour == UNCLEAR
    assert verdict.shape == "circle"


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros((25, 64, 64, 3), np.uint8),
        np.full((2, 32, 48, 3), 128, np.uint8),
        np.random.default_rng(4).integers(0, 256, (9, 64, 64, 3)).astype(np.uint8),
    ],
    ids=["black", "gray", "noise"],
)
def test_nothing_to_see(clip):
    verdict = judge(clip)
    assert verdict.shape == UNCLEAR
    assert not any(verdict.matches(combo) for combo in all_combinations())


def test_a_shape_that_vanishes_halfway_is_unclear():
    clip = render(replace(SCENE, motion="stays still"))
    clip[12:] = clip[0, 0, 0]
    assert judge(clip).motion == UNCLEAR


def test_two_motions_at_once_are_unclear():
    clip = render(replace(SCENE, motion="moves right", travel=24))
    diagonal = np.stack([np.roll(frame, t - 12, axis=0) for t, frame in enumerate(clip)])
    assert judge(diagonal).motion == UNCLEAR


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((25, 64, 64, 3), np.float32),
        np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((25, 3, 64, 64), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
    ],
)
def test_what_is_no_clip_is_refused(frames):
    with pytest.raises(RequestError, match=r"uint8 \(T, H, W, 3\)"):
        judge(frames)
