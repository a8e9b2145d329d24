"""Noise schedules: the sigmas that a sampling run visits, from noise (1) to clean (0).

A schedule is a list of `steps + 1` floats. The published one is linear-quadratic (SPEC 3);
any falling list will do, and part of a list starts from a latent that is already partly clean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

from mochi.core.errors import RequestError
from mochi.core.request import check_schedule
from mochi.core.sizes import whole


def linear_quadratic(
    steps: int, threshold: float = 0.025, linear_steps: int | None = None
) -> list[float]:
    """The published schedule: small even steps near pure noise, then steps that grow (SPEC 3).

    Args:
        steps: how many, at least 1.
        threshold: how far the linear steps go: they end at sigma `1 - threshold`.
        linear_steps: how many of the steps are linear; half of them (rounded down) by default.
            `linear_steps = steps` has no quadratic part and ends in one jump to 0; `steps = 1` is
            the schedule 1, 0.

    Returns:
        `steps + 1` sigmas in float64, falling from 1 to 0.

    Raises:
        RequestError: steps below 1, threshold outside (0, 1), linear_steps outside [1, steps], or
            a threshold so large for its linear steps that the quadratic would overshoot 0.
    """
    n = whole("steps", steps)
    if n == 1 and not linear_steps:
        linear_steps = 1
    m = n // 2 if linear_steps is None else linear_steps
    check_schedule(n, threshold, m)
    _check_overshoot(n, m, threshold)
    return [1.0 - _progress(i, n, m, threshold) for i in range(n)] + [0.0]


def _progress(i: int, n: int, m: int, d: float) -> float:
    """f(i) of SPEC 3: how much of the way from noise to clean lies behind step i."""
    if i < m:
        return i * d / m
    # The same parabola written from its start (m, d), where it continues the line: the published
    # coefficients are large numbers that cancel where few steps are quadratic.
    slope, rest = d / m, n - m
    bend = (1 - d - slope * rest) / rest**2
    return d + slope * (i - m) + bend * (i - m) ** 2


def _check_overshoot(n: int, m: int, d: float) -> None:
    """The quadratic peaks before n, beyond 1, unless d < m(2r-1) / (m(2r-1) + r(r-1)), r = n - m.

    That bound is f(n) > f(n - 1) solved for d; f is concave or convex past m, so the last step
    decides.
    """
    r = n - m
    limit = m * (2 * r - 1) / (m * (2 * r - 1) + r * (r - 1)) if r else 1.0
    if d >= limit:
        rule = f"overshoots sigma 0 with steps={n} and linear_steps={m}"
        raise RequestError("threshold", d, rule, f"anything below {limit:.4g}")


def check_sigmas(sigmas: Iterable[float]) -> list[float]:
    """Any schedule as a list of floats, checked.

    Args:
        sigmas: two or more noise levels (a list, a tuple, a 1-d tensor or array) that fall
            strictly, within [0, 1].

    Raises:
        RequestError: with the rule that is broken and where.
    """
    try:
        levels = [float(sigma) for sigma in sigmas]
    except (TypeError, ValueError, RuntimeError):
        raise RequestError("sigmas", sigmas, "is not a list of numbers") from None
    if len(levels) < 2:
        raise RequestError("sigmas", levels, "needs at least two levels, where to start and to end")
    for level in levels:
        if not math.isfinite(level) or not 0.0 <= level <= 1.0:
            raise RequestError("sigmas", level, "must hold noise levels from 0 to 1")
    for i, (level, following) in enumerate(pairwise(levels)):
        if following >= level:
            rule = f"must fall, but level {i + 1} does not lie below level {i}"
            raise RequestError("sigmas", (level, following), rule)
    return levels


def starting_at(sigmas: Iterable[float], start: float) -> list[float]:
    """`start` and what lies below it in a schedule: for a latent that is already partly clean.

    `mix(clean, noise, start)` makes such a latent. `start = 1` of a whole schedule is the whole
    schedule.

    Raises:
        RequestError: a bad schedule, or a `start` that is not above its end and at most its
            beginning.
    """
    levels = check_sigmas(sigmas)
    if not levels[-1] < start <= levels[0]:
        rule = f"must lie in the schedule, above {levels[-1]:g} and at most {levels[0]:g}"
        raise RequestError("start", start, rule)
    return [float(start)] + [level for level in levels if level < start]
