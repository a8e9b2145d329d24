"""What fits: found by trying sizes against any estimate."""

import pytest

from mochi.core.errors import DoesNotFitError
from mochi.core.sizes import VideoSize
from mochi.memory.fit import check_fits, largest_fitting
from mochi.memory.need import Need
from mochi.memory.plan import Room

MIB = 2**20


def needs(size: VideoSize) -> list[Need]:
    """A made-up model: 10 MiB of weights, a byte a pixel and frame to denoise."""
    return [
        Need("denoise", 10 * MIB, size.frames * size.height * size.width),
        Need("decode", MIB, size.height * size.width),
    ]


def cpu(free: int) -> Room:
    return Room(free, free, on_cpu=True)


def test_what_fits_passes() -> None:
    size = VideoSize(25, 64, 64)
    check_fits(needs, size, cpu(10 * MIB + 25 * 64 * 64), "cpu")
    with pytest.raises(DoesNotFitError):
        check_fits(needs, size, cpu(10 * MIB + 25 * 64 * 64 - 1), "cpu")


def test_the_error_says_stage_numbers_and_what_would_fit() -> None:
    available = 10 * MIB + 13 * 64 * 64 + 5
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(needs, VideoSize(25, 64, 64), Room(available, 2**40, on_cpu=False), "cuda:0")
    text = str(caught.value)
    assert "64x64, 25 frames" in text
    assert "on cuda:0" in text
    assert "to denoise with --memory high" in text
    assert "64x64, 13 frames would fit" in text
    assert "\n" not in text


def test_fewer_frames_go_before_fewer_pixels() -> None:
    size = VideoSize(61, 64, 96)
    for frames in (1, 7, 31, 61):
        available = 10 * MIB + frames * 64 * 96
        assert largest_fitting(needs, size, cpu(available)) == VideoSize(frames, 64, 96)


def test_half_the_height_and_width_where_not_even_one_frame_fits() -> None:
    available = 10 * MIB + 64 * 96 - 1
    assert largest_fitting(needs, VideoSize(61, 64, 96), cpu(available)) == VideoSize(1, 32, 48)
    one_more = available + 32 * 48 * 6
    assert largest_fitting(needs, VideoSize(61, 64, 96), cpu(one_more)) == VideoSize(1, 64, 96)


def test_nothing_fits_where_the_weights_do_not() -> None:
    assert largest_fitting(needs, VideoSize(25, 640, 64), cpu(MIB)) is None
    with pytest.raises(DoesNotFitError, match="no size fits"):
        check_fits(needs, VideoSize(25, 64, 64), cpu(MIB), "cpu")


def test_the_hosts_memory_counts_beside_the_devices() -> None:
    def pinned(size: VideoSize) -> list[Need]:
        return [Need("denoise", MIB, MIB, "low", host=300 * MIB)]

    check_fits(pinned, VideoSize(1, 16, 16), Room(2 * MIB, 300 * MIB, on_cpu=False), "cuda:0")
    too_little = Room(2 * MIB, 99 * MIB, on_cpu=False)
    with pytest.raises(DoesNotFitError, match=r"0\.3 GiB of the host's memory, of which 99\.0 MiB"):
        check_fits(pinned, VideoSize(1, 16, 16), too_little, "cuda:0")
