from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mochi.video.fit import at_rate, crop_box, fit
from mochi.video.movie import Shown

sides = st.integers(1, 3000)


def shown(times: list[Fraction], end: Fraction) -> list[Shown]:
    ends = [*times[1:], end]
    return [
        Shown(start, stop, *[lambda index=index: np.full((1, 1, 3), index, np.uint8)] * 2)
        for index, (start, stop) in enumerate(zip(times, ends, strict=True))
    ]


def steady(frames: int, fps: int, digits: int | None = None) -> list[Shown]:
    """Frames at a steady rate, their times rounded to so many digits as containers do."""
    times = [Fraction(index, fps) for index in range(frames + 1)]
    if digits is not None:
        times = [Fraction(round(time * 10**digits), 10**digits) for time in times]
    return shown(times[:-1], times[-1])


def indices(found: object) -> list[int]:
    return [int(entry.picture()[0, 0, 0]) for entry in found]  # type: ignore[attr-defined]


@given(sides, sides, sides, sides, st.fractions(Fraction(1, 4), 4, max_denominator=50))
def test_the_crop_is_the_largest_in_the_middle(
    height: int, width: int, to_height: int, to_width: int, aspect: Fraction
) -> None:
    left, top, right, bottom = crop_box(height, width, to_height, to_width, aspect)
    assert left >= 0
    assert top >= 0
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)
    shape = float((right - left) * aspect / (bottom - top))
    assert shape == pytest.approx(to_width / to_height)
    assert right - left == pytest.approx(width) or bottom - top == pytest.approx(height)


def test_the_sides_are_cropped_and_the_middle_is_kept() -> None:
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = (10, 200, 30)
    assert (fit(picture, 20, 20) == (10, 200, 30)).all()
    upright = np.ascontiguousarray(picture.transpose(1, 0, 2))
    assert (fit(upright, 16, 16)[2:-2] == (10, 200, 30)).all()


def test_the_same_size_is_the_same_picture(noise: np.ndarray) -> None:
    assert np.array_equal(fit(noise[0], 64, 64), noise[0])


@pytest.mark.parametrize("size", [(16, 16), (48, 64), (200, 100), (1, 1)])
def test_a_plain_picture_stays_plain(size: tuple[int, int]) -> None:
    picture = np.full((37, 53, 3), (3, 130, 251), np.uint8)
    found = fit(picture, *size)
    assert found.shape == (*size, 3)
    assert (found == (3, 130, 251)).all()


def test_reduction_averages_instead_of_picking(noise: np.ndarray) -> None:
    """Noise reduced 8 times is nearly gray; without antialiasing it would be as noisy as before."""
    assert fit(noise[0], 8, 8).std() < 0.2 * noise[0].std()


def test_resizing_agrees_with_cropping_first() -> None:
    picture = np.random.default_rng(3).integers(0, 256, (40, 80, 3), np.uint8)
    whole = Image.fromarray(np.ascontiguousarray(picture[:, 20:60]))
    first = np.asarray(whole.resize((24, 24), Image.Resampling.LANCZOS))
    assert np.abs(fit(picture, 24, 24).astype(int)[4:-4, 4:-4] - first[4:-4, 4:-4]).max() <= 1


@pytest.mark.parametrize(
    ("fps", "wanted"),
    [
        (30, list(range(6))),
        (15, [0, 2, 4]),
        (10, [0, 3]),
        (60, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
        (25, [0, 1, 2, 3, 4]),
    ],
)
@pytest.mark.parametrize("digits", [None, 3, 2])
def test_rates_change_by_repeating_and_leaving_out(
    fps: int, wanted: list[int], digits: int | None
) -> None:
    """From 30 a second; WebM rounds times to three digits, GIF to two."""
    tolerance = Fraction(0) if digits is None else Fraction(1, 2 * 10**digits)
    assert indices(at_rate(steady(6, 30, digits), Fraction(fps), tolerance)) == wanted


@pytest.mark.parametrize("digits", [2, 3])
@pytest.mark.parametrize("fps", [24, 25, 30, 50])
def test_rounded_times_lose_and_repeat_nothing(digits: int, fps: int) -> None:
    found = at_rate(steady(100, fps, digits), Fraction(fps), Fraction(1, 2 * 10**digits))
    assert indices(found) == list(range(100))


@given(
    gaps=st.lists(st.fractions(Fraction(1, 90), 2, max_denominator=97), min_size=1, max_size=12),
    fps=st.fractions(Fraction(1, 2), 60, max_denominator=13),
)
def test_uneven_times_against_a_plain_search(gaps: list[Fraction], fps: Fraction) -> None:
    ends = list(np.cumsum(gaps))
    times = [Fraction(0), *ends[:-1]]
    wanted, count = [], 0
    while count / fps < ends[-1]:
        wanted.append(max(index for index, time in enumerate(times) if time <= count / fps))
        count += 1
    assert indices(at_rate(shown(times, ends[-1]), fps, Fraction(0))) == wanted


def test_nothing_gives_nothing() -> None:
    assert list(at_rate([], Fraction(30), Fraction(0))) == []
