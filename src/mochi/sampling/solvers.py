"""Solvers of the sampling ODE `dz/dsigma = -v(z, sigma)`, each one velocity a step.

A solver is a function of the latent, its velocity and the two noise levels; it returns the next
latent and what it wants to remember. Everything is in the latent's own precision (float32 in a
run, float64 in convergence tests).

The multistep solvers look back one step. The first step has nothing to look back to and is
Euler's: one step of first order costs no order of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from mochi.core.errors import RequestError


class Past(NamedTuple):
    """What a multistep solver remembers: what it extrapolates, and where that was."""

    value: Tensor
    sigma: float


Solver = Callable[[Tensor, Tensor, float, float, Past | None], tuple[Tensor, Past | None]]
"""`z_next, past = solver(z, v, sigma, sigma_next, past)`; `past` is None before the first step."""


def euler(
    z: Tensor, v: Tensor, sigma: float, sigma_next: float, past: Past | None
) -> tuple[Tensor, None]:
    """First order, the published sampler: `z + (sigma - sigma_next) * v` (SPEC 3)."""
    return z + (sigma - sigma_next) * v, None


def ab2(
    z: Tensor, v: Tensor, sigma: float, sigma_next: float, past: Past | None
) -> tuple[Tensor, Past]:
    """Adams-Bashforth of second order for uneven steps: the velocity goes on along a straight line.

    With `r` the ratio of this step to the one before, the step's mean velocity is
    `v + r/2 * (v - v_before)`.
    """
    mean = v
    if past is not None:
        ratio = (sigma - sigma_next) / (past.sigma - sigma)
        mean = v + 0.5 * ratio * (v - past.value)
    return z + (sigma - sigma_next) * mean, Past(v, sigma)


def dpmpp_2m(
    z: Tensor, v: Tensor, sigma: float, sigma_next: float, past: Past | None
) -> tuple[Tensor, Past]:
    """DPM-Solver++ 2M in flow form: extrapolates the estimated clean latent, `x = z + sigma * v`.

    The ODE is `d(z / sigma) = x d(1 / sigma)`, so with x constant over the step
    `z_next = kept * z + (1 - kept) * x` exactly, where `kept = sigma_next / sigma`.

    The original extrapolates x along the log-SNR, which is infinite at sigma 1 and at sigma 0: near
    both ends its steps never become small, and its order measured from 1 to 0 is 1.7 to 1.8. Here x
    is taken as smooth in sigma^2: a straight line in it, integrated exactly over `d(1 / sigma)`,
    has order 2 up to both ends and no special cases there.
    """
    x = z + sigma * v
    mean = x
    if past is not None:
        rise = sigma * (sigma - sigma_next) / (past.sigma**2 - sigma**2)
        mean = x + rise * (x - past.value)
    kept = sigma_next / sigma
    return kept * z + (1.0 - kept) * mean, Past(x, sigma)


SOLVERS: dict[str, Solver] = {"euler": euler, "ab2": ab2, "dpmpp_2m": dpmpp_2m}


def get_solver(name: str) -> Solver:
    """The solver called `name`.

    Raises:
        RequestError: there is none; lists those there are.
    """
    try:
        return SOLVERS[name]
    except (KeyError, TypeError):
        raise RequestError("solver", name, "is unknown", ", ".join(SOLVERS)) from None
