"""Schedules: the published numbers, their edges, and what is refused."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import mochi
from mochi.core.errors import RequestError
from mochi.core.presets import PRESETS
from mochi.sampling.schedule import check_sigmas, linear_quadratic, starting_at


def test_published_schedules_to_the_last_digit(shared: Path) -> None:
    goldens = load_file(shared / "goldens" / "reference.safetensors")
    for key, arguments in {
        "schedule/64": (64, 0.025),
        "schedule/8fast": (8, 0.1, 6),
        "sample/steps8/sigmas": (8, 0.1, 6),
        "sample/steps10/sigmas": (10, 0.025),
    }.items():
        ours = torch.tensor(mochi.linear_quadratic(*arguments), dtype=torch.float64)
        assert goldens[key].dtype == torch.float64
        assert (ours - goldens[key]).abs().max() < 1e-12, key


@given(
    steps=st.integers(2, 200),
    share=st.floats(0.0, 1.0),
    threshold=st.floats(0.001, 0.5),
)
def test_agrees_with_exact_arithmetic(steps: int, share: float, threshold: float) -> None:
    linear_steps = max(1, round(share * steps))
    n, m, d = steps, linear_steps, Fraction(threshold)
    expected = []
    for i in range(n):
        if i < m:
            expected.append(1 - i * d / m)
            continue
        # The parabola through (m, d) with slope d/m there that reaches 1 at n.
        slope = d / m
        bend = (1 - d - slope * (n - m)) / (n - m) ** 2
        expected.append(1 - (d + slope * (i - m) + bend * (i - m) ** 2))
    expected.append(Fraction(0))
    falls = all(a > b for a, b in pairwise(expected))
    if not falls:
        with pytest.raises(RequestError, match="overshoots"):
            linear_quadratic(steps, threshold, linear_steps)
        return
    ours = linear_quadratic(steps, threshold, linear_steps)
    assert np.allclose(ours, [float(sigma) for sigma in expected], rtol=0, atol=1e-12)


def test_edges() -> None:
    assert linear_quadratic(1) == [1.0, 0.0]
    assert linear_quadratic(1, 0.025, 0) == [1.0, 0.0]
    assert linear_quadratic(1, 0.1, 1) == [1.0, 0.0]
    no_quadratic = linear_quadratic(4, 0.4, 4)
    assert no_quadratic == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.0])
    assert len(linear_quadratic(5)) == 6  # m = 2, rounded down
    assert linear_quadratic(5) == linear_quadratic(5, 0.025, 2)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_schedule(name: str) -> None:
    preset = PRESETS[name]
    sigmas = linear_quadratic(preset.steps, preset.threshold, preset.linear_steps)
    assert check_sigmas(sigmas) == sigmas


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((0, 0.025), "steps"),
        ((-3, 0.025), "steps"),
        ((2.5, 0.025), "steps"),
        ((float("nan"), 0.025), "steps"),
        ((8, 0.025, 0), "linear_steps"),
        ((2, 0.025, 0), "linear_steps"),
        ((8, 0.025, 9), "linear_steps"),
        ((8, 0.025, -1), "linear_steps"),
        ((8, 0.0), "threshold"),
        ((8, 1.0), "threshold"),
        ((8, -0.1), "threshold"),
        ((8, float("nan")), "threshold"),
        ((8, float("inf")), "threshold"),
        ((8, "much"), "threshold"),
        ((8, 0.9), "threshold"),  # the quadratic would climb beyond 1 and come back
    ],
)
def test_what_no_schedule_can_be_made_of_is_refused(arguments: tuple, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        linear_quadratic(*arguments)
    assert caught.value.field == field


def test_overshoot_names_the_largest_threshold_that_works() -> None:
    with pytest.raises(RequestError, match="overshoots") as caught:
        linear_quadratic(8, 0.9)
    limit = float(str(caught.value.nearest).split()[-1])
    check_sigmas(linear_quadratic(8, limit - 0.001))
    with pytest.raises(RequestError):
        linear_quadratic(8, limit + 0.001)


@pytest.mark.parametrize(
    "given", [[1.0, 0.5, 0.0], (1, 0.5, 0), torch.tensor([1.0, 0.5, 0]), np.array([1, 0.5, 0])]
)
def test_any_list_of_numbers_is_a_schedule(given: object) -> None:
    assert check_sigmas(given) == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    "given",
    [
        [],
        [1.0],
        [1.0, 1.0, 0.0],
        [0.0, 1.0],
        [1.0, 0.2, 0.3, 0.0],
        [1.5, 0.0],
        [1.0, -0.1],
        [1.0, float("nan"), 0.0],
        [float("inf"), 0.0],
        ["a", "b"],
        0.5,
        None,
        torch.zeros(2, 2),
    ],
)
def test_what_does_not_fall_from_1_to_0_is_refused(given: object) -> None:
    with pytest.raises(RequestError) as caught:
        check_sigmas(given)
    assert caught.value.field == "sigmas"


def test_part_of_a_schedule() -> None:
    whole = [1.0, 0.8, 0.5, 0.0]
    assert starting_at(whole, 1.0) == whole
    assert starting_at(whole, 0.8) == [0.8, 0.5, 0.0]
    assert starting_at(whole, 0.6) == [0.6, 0.5, 0.0]
    assert starting_at(whole, 0.1) == [0.1, 0.0]
    for start in (0.0, 1.1, -1.0, float("nan")):
        with pytest.raises(RequestError, match="start"):
            starting_at(whole, start)
