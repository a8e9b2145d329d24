"""Solvers against ODEs whose answer is known, in float64: they have the order they claim."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from mochi.core.errors import RequestError
from mochi.core.request import SOLVER_NAMES
from mochi.sampling.loop import sample
from mochi.sampling.schedule import linear_quadratic
from mochi.sampling.solvers import SOLVERS, Past, Solver, get_solver

Field = Callable[[Tensor, float], Tensor]
Grid = Callable[[int], list[float]]

START = torch.linspace(-2, 2, 24, dtype=torch.float64).view(1, 1, 1, 4, 6)


def mixture(means: list[float], deviations: list[float], weights: list[float]) -> Field:
    """The exact velocity E[z0 - eps | z] of rectified flow to a mixture of Gaussians."""
    mean, deviation, weight = (
        torch.tensor(x, dtype=torch.float64) for x in (means, deviations, weights)
    )

    def velocity(z: Tensor, sigma: float) -> Tensor:
        offset = z.unsqueeze(-1) - (1 - sigma) * mean
        variance = (1 - sigma) ** 2 * deviation**2 + sigma**2
        share = torch.softmax(weight.log() - 0.5 * (variance.log() + offset**2 / variance), dim=-1)
        clean = mean + (1 - sigma) * deviation**2 / variance * offset
        noise = sigma / variance * offset
        return (share * (clean - noise)).sum(-1)

    return velocity


GAUSS = mixture([0.7], [0.5], [1.0])
MIXTURE = mixture([-1.5, 1.0], [0.4, 0.6], [0.4, 0.6])


def gauss_exactly(z: Tensor) -> Tensor:
    """The flow of one Gaussian keeps (z - mean) / deviation: N(0, 1) becomes N(0.7, 0.25)."""
    return 0.7 + 0.5 * z


def mixture_finely(z: Tensor, sigmas: list[float]) -> Tensor:
    """Runge-Kutta of order 4 in 2,000 steps."""
    grid = np.linspace(sigmas[0], sigmas[-1], 2001)
    for sigma, following in pairwise(grid):
        step = following - sigma
        k1 = -MIXTURE(z, sigma)
        k2 = -MIXTURE(z + step / 2 * k1, sigma + step / 2)
        k3 = -MIXTURE(z + step / 2 * k2, sigma + step / 2)
        k4 = -MIXTURE(z + step * k3, following)
        z = z + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z


def solve(field: Field, name: str, sigmas: list[float]) -> Tensor:
    """Through the loop, as a run does it, in float64."""
    text, mask = torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool)

    def network(z: Tensor, sigma: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        return field(z, sigma.item())

    return sample(network, START, text, mask, None, None, sigmas, 1.0, solver=name)


def even(steps: int) -> list[float]:
    return cast("list[float]", np.linspace(1, 0, steps + 1).tolist())


def uneven(steps: int) -> list[float]:
    """Falls smoothly with steps that grow sixfold."""
    at = np.linspace(0, 1, steps + 1)
    return cast("list[float]", (1 - (0.4 * at + 0.6 * at**2)).tolist()[:-1] + [0.0])


def orders(field: Field, exact: Tensor, name: str, grid: Grid, counts: list[int]) -> list[float]:
    errors = [float((solve(field, name, grid(n)) - exact).norm() / exact.norm()) for n in counts]
    return [math.log2(a / b) for a, b in pairwise(errors)]


PROBLEMS = {
    "gauss": (GAUSS, gauss_exactly(START)),
    "mixture": (MIXTURE, mixture_finely(START, [1.0, 0.0])),
}
GRIDS: dict[str, Grid] = {"even": even, "uneven": uneven, "linear-quadratic": linear_quadratic}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ab2", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence(name: str, order: int, problem: str, grid: str) -> None:
    field, exact = PROBLEMS[problem]
    measured = orders(field, exact, name, GRIDS[grid], [64, 128, 256])
    assert min(measured) > order - 0.05, measured
    if order == 1:
        assert max(measured) < 1.1, measured  # and Euler has no more: the test tells them apart


def log_snr_2m(
    z: Tensor, v: Tensor, sigma: float, sigma_next: float, past: Past | None
) -> tuple[Tensor, Past]:
    """DPM-Solver++ 2M as published, extrapolating along the log-SNR; first order at both ends."""
    x = z + sigma * v
    mean = x
    if past is not None and sigma_next > 0 and past.sigma < 1:
        log_snr = [math.log((1 - s) / s) for s in (past.sigma, sigma, sigma_next)]
        mean = x + (x - past.value) * 0.5 * (log_snr[2] - log_snr[1]) / (log_snr[1] - log_snr[0])
    return sigma_next / sigma * z + (1 - sigma_next / sigma) * mean, Past(x, sigma)


def test_log_snr_loses_order_at_the_ends_and_ours_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why `dpmpp_2m` extrapolates along sigma squared."""
    monkeypatch.setitem(SOLVERS, "log_snr", log_snr_2m)
    field, exact = PROBLEMS["mixture"]
    theirs = orders(field, exact, "log_snr", even, [128, 256])
    assert theirs[0] < 1.85
    # Away from the ends the two are one method: second order both, and to the same end point.
    middle = [0.9 - 0.8 * i / 256 for i in range(257)]
    exact = mixture_finely(START, middle)
    for name in ("log_snr", "dpmpp_2m"):
        halved = [solve(MIXTURE, name, middle[::stride]) - exact for stride in (4, 2)]
        assert math.log2(halved[0].norm() / halved[1].norm()) > 1.9


@pytest.mark.parametrize("name", SOLVERS)
def test_straight_paths_are_solved_exactly_in_one_step_or_many(name: str) -> None:
    target = START.flip(-1) * 0.3

    def straight(z: Tensor, sigma: float) -> Tensor:
        return (target - z) / sigma  # z0 - eps where all noise leads to one target

    for sigmas in ([1.0, 0.0], [1.0, 0.97, 0.5, 0.4, 0.0]):
        assert torch.allclose(solve(straight, name, sigmas), target, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_velocity_a_step(name: str) -> None:
    calls: list[float] = []

    def counted(z: Tensor, sigma: float) -> Tensor:
        calls.append(sigma)
        return MIXTURE(z, sigma)

    solve(counted, name, uneven(7))
    assert calls == pytest.approx(uneven(7)[:-1], abs=1e-12)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_float32_stays_float32(solver: Solver) -> None:
    z = START.float()
    past = Past(z, 0.9)
    assert solver(z, z, 0.8, 0.6, past)[0].dtype == torch.float32


def test_names_are_those_a_request_takes() -> None:
    assert tuple(SOLVERS) == SOLVER_NAMES
    for bad in ("heun", "", None, ["euler"]):
        with pytest.raises(RequestError, match="euler, ab2, dpmpp_2m"):
            get_solver(bad)
