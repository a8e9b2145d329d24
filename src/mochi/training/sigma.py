"""Noise levels that a training meets, from evenly spread numbers.

Each distribution is its quantile function, so that a batch which spreads its numbers evenly over
[0, 1) spreads its noise levels evenly over any of them.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Protocol

SIGMAS = ("uniform", "logit-normal", "shifted")
_EDGE = 1e-6
"""How near to 0 and 1 a quantile is asked for: the normal distribution has none there."""


class SigmaSettings(Protocol):
    """What chooses the distribution: the config's section, or anything like it."""

    @property
    def sigma(self) -> str: ...

    @property
    def sigma_mean(self) -> float: ...

    @property
    def sigma_deviation(self) -> float: ...

    @property
    def sigma_shift(self) -> float: ...


def sigma_at(share: float, settings: SigmaSettings) -> float:
    """The noise level below which a share of all levels lies.

    Args:
        share: from 0 to 1.
        settings: `uniform`; `logit-normal`, the sigmoid of a normal variable; or `shifted`,
            `s u / (1 + (s - 1) u)` of a uniform u, which is what a sampling schedule that is
            shifted by s passes through.
    """
    if settings.sigma == "uniform":
        return share
    if settings.sigma == "shifted":
        return settings.sigma_shift * share / (1 + (settings.sigma_shift - 1) * share)
    inside = min(max(share, _EDGE), 1 - _EDGE)
    normal = NormalDist(settings.sigma_mean, settings.sigma_deviation).inv_cdf(inside)
    return 1 / (1 + math.exp(-normal))
