"""Geometry: numbers of the published size, and every way to get a size wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.core.errors import MochiError, RequestError
from mochi.core.sizes import LatentSize, VideoSize, nearest_frames, nearest_pixels


def test_the_published_size() -> None:
    size = VideoSize(frames=163, height=480, width=848)
    assert size.latent == LatentSize(28, 60, 106)
    assert size.latent.tokens == 44_520
    assert size.latent.shape() == (1, 12, 28, 60, 106)
    assert size.latent.video == size
    assert VideoSize(85, 480, 848).latent.tokens == 23_850


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 60))
def test_latent_and_video_are_inverse(k: int, rows: int, columns: int) -> None:
    size = VideoSize(6 * k + 1, 16 * rows, 16 * columns)
    assert size.latent.video == size
    assert size.latent.patches == (k + 1, rows, columns)


@given(st.integers(-50, 500))
def test_nearest_frames_are_legal_neighbours(frames: int) -> None:
    below, above = nearest_frames(frames)
    assert below % 6 == above % 6 == 1
    assert above - below == 6
    assert below >= 1
    if frames >= 1:
        assert below <= frames < above


@given(st.integers(1, 5000))
def test_nearest_pixels_are_legal_neighbours(pixels: int) -> None:
    below, above = nearest_pixels(pixels)
    assert below % 16 == above % 16 == 0
    assert 16 <= below < above
    assert pixels < above


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((160, 480, 848), "frames=160 is not 6k+1; nearest: 157 and 163"),
        ((163, 481, 848), "height=481 is not a multiple of 16; nearest: 480 and 496"),
        ((163, 480, 7), "width=7 is not a multiple of 16; nearest: 16 and 32"),
        ((0, 480, 848), "frames=0 must be at least 1; nearest: 1"),
        ((163, -16, 848), "height=-16 must be at least 1; nearest: 1"),
        ((163, 480.5, 848), "height=480.5 is not a whole number"),
        ((float("nan"), 480, 848), "frames=nan is not a whole number"),
        ((163, float("inf"), 848), "height=inf is not a whole number"),
        ((True, 480, 848), "frames=True is not a whole number"),
        (("163", 480, 848), "frames='163' is not a whole number"),
    ],
)
def test_bad_sizes_name_field_value_rule_and_nearest(
    size: tuple[object, object, object], message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        VideoSize(*size)  # type: ignore[arg-type]
    assert str(caught.value) == message
    assert isinstance(caught.value, MochiError)
    assert isinstance(caught.value, ValueError)


def test_odd_latents_have_no_patches() -> None:
    with pytest.raises(RequestError, match=r"latent height=7 is odd; nearest: 6 and 8"):
        LatentSize(1, 7, 8)
