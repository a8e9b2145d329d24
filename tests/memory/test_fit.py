"""What fits: found by trying sizes against any estimate."""

import pytest

from mochi.core.errors import DoesNotFitError
from mochi.core.sizes import VideoSize
from mochi.memory.estimate import Need
from mochi.memory.fit import check_fits, largest_fitting, worst

MIB = 2**20


def needs(size: VideoSize) -> list[Need]:
    """A made-up model: 10 MiB of weights, a byte a pixel and frame to denoise."""
    return [
        Need("denoise", 10 * MIB, size.frames * size.height * size.width),
        Need("decode", MIB, size.height * size.width),
    ]


def test_what_fits_passes() -> None:
    size = VideoSize(25, 64, 64)
    check_fits(needs, size, 10 * MIB + 25 * 64 * 64, "cpu")
    with pytest.raises(DoesNotFitError):
        check_fits(needs, size, 10 * MIB + 25 * 64 * 64 - 1, "cpu")


def test_the_error_says_stage_numbers_and_what_would_fit() -> None:
    available = 10 * MIB + 13 * 64 * 64 + 5
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(needs, VideoSize(25, 64, 64), available, "cuda:0")
    text = str(caught.value)
    assert "64x64, 25 frames" in text
    assert "on cuda:0 to denoise" in text
    assert "64x64, 13 frames would fit" in text
    assert "\n" not in text


def test_fewer_frames_go_before_fewer_pixels() -> None:
    size = VideoSize(61, 64, 96)
    for frames in (1, 7, 31, 61):
        available = 10 * MIB + frames * 64 * 96
        assert largest_fitting(needs, size, available) == VideoSize(frames, 64, 96)


def test_half_the_height_and_width_where_not_even_one_frame_fits() -> None:
    available = 10 * MIB + 64 * 96 - 1
    assert largest_fitting(needs, VideoSize(61, 64, 96), available) == VideoSize(1, 32, 48)
    one_more = available + 32 * 48 * 6
    assert largest_fitting(needs, VideoSize(61, 64, 96), one_more) == VideoSize(1, 64, 96)


def test_nothing_fits_where_the_weights_do_not() -> None:
    assert largest_fitting(needs, VideoSize(25, 640, 64), MIB) is None
    with pytest.raises(DoesNotFitError, match="no size fits"):
        check_fits(needs, VideoSize(25, 64, 64), MIB, "cpu")


def test_the_worst_stage_decides() -> None:
    assert worst([Need("a", 1, 5), Need("b", 4, 3), Need("c", 0, 6)]).stage == "b"
