"""Work that a run may leave out, at a price: all of it is off unless asked for (PERFORMANCE 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from mochi.core.economy import StepCache
from mochi.core.errors import RequestError
from mochi.model.shortcut import Shortcut
from mochi.sampling.caching import Agree, CacheCount, FirstBlockCache, TeaCache, alone
from mochi.sampling.guidance import Velocity, Wrap

MOCHI_1_POLYNOMIAL = (
    -3.51241319e03,
    8.11675948e02,
    -6.09400215e01,
    2.42429681e00,
    3.05291719e-03,
)
"""Of TeaCache for Mochi 1, as its authors published it: how much the network's output changes,
foretold by how much its first modulated input does."""


class TakesShortcut(Protocol):
    """A network with the hook of step caches."""

    shortcut: Shortcut | None


@contextmanager
def step_cache(
    dit: TakesShortcut, cache: StepCache | None, agree: Agree = alone
) -> Iterator[CacheCount]:
    """Let a network use a step cache within a `with` block, which is one run.

    Args:
        dit: the network.
        cache: which, and its threshold; None for none.
        agree: how devices that share the tokens come to one decision.

    Yields:
        What was computed and what was spared, counted as the run goes.
    """
    if cache is None:
        yield CacheCount()
        return
    made: FirstBlockCache | TeaCache
    if cache.kind == "first-block":
        made = FirstBlockCache(cache.threshold, agree)
    else:
        made = TeaCache(cache.threshold, MOCHI_1_POLYNOMIAL, agree)
    dit.shortcut = made
    try:
        yield made.count
    finally:
        dit.shortcut = None


def every_nth_linear(every: int, linear_steps: int) -> Wrap:
    """Compute the velocity in every n-th of the linear steps only, and use it until the next.

    Half of the published schedule lies between sigma 1 and 0.975, where the velocity hardly
    changes: the cheapest place to save.

    Args:
        every: 1 computes all.
        linear_steps: how many steps the linear part has; all later ones are computed.
    """

    def wrap(velocity: Velocity) -> Velocity:
        last: list[Tensor] = []

        def economical(z: Tensor, sigma: float, step: int) -> Tensor:
            if last and step < linear_steps and step % every:
                return last[0]
            last[:] = [velocity(z, sigma, step)]
            return last[0]

        return economical

    return wrap


def guided_between(
    sigmas: Sequence[float], scale: float, low: float, high: float
) -> tuple[float, ...]:
    """Guidance of each step: `scale` where its sigma lies in `[low, high]`, else 1, which costs a
    single pass.

    Raises:
        RequestError: low and high are not two noise levels in order.
    """
    if not 0.0 <= low < high <= 1.0:
        rule = "is not LOW:HIGH with 0 <= LOW < HIGH <= 1"
        raise RequestError("guidance_interval", f"{low:g}:{high:g}", rule, "0.1:0.98")
    return tuple(scale if low <= sigma <= high else 1.0 for sigma in sigmas[:-1])
