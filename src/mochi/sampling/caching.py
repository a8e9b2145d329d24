"""Step caches: where little changes from one step to the next, most blocks are not run again.

Both are lossy and off by default (PERFORMANCE 3). They decide for each pass by itself, by how much
something cheap has changed since the pass was last computed, and then add what the skipped blocks
did at that time.
"""

# Shapes: B batch, N this device's visual tokens, D visual width.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mochi.model.context import TextContext

Agree = Callable[[Tensor], Tensor]
"""The mean over devices of a number: all must decide alike. On one device, the number itself."""


def alone(value: Tensor) -> Tensor:
    """The `Agree` of one device."""
    return value


@dataclass
class CacheCount:
    """Passes that were computed and passes that were spared most of their blocks."""

    computed: int = 0
    spared: int = 0


@dataclass
class _Pass:
    """What one pass remembers: of its last look, and of its last computation."""

    start: Tensor | None = None
    looked_at: Tensor | None = None
    since: Tensor | None = None
    residual: Tensor | None = None
    change: float = 0.0


class FirstBlockCache:
    """Runs the first block always, and the others where its own residual has changed (relative
    mean change over `threshold`) since they were last run.

    Attributes:
        threshold: larger spares more and errs more; 0 spares nothing.
        count: what happened.
        agree: see `Agree`.
    """

    def __init__(self, threshold: float, agree: Agree = alone):
        self.threshold, self.agree, self.count = threshold, agree, CacheCount()
        self._passes: dict[int, _Pass] = {}

    def before_first(
        self, context: TextContext, x_BND: Tensor, normed_BND: Tensor
    ) -> Tensor | None:
        self._of(context).start = x_BND.clone()
        return None

    def after_first(self, context: TextContext, x_BND: Tensor) -> Tensor | None:
        mine = self._of(context)
        assert mine.start is not None
        first = x_BND - mine.start
        mine.start = None
        if mine.residual is not None and mine.since is not None:
            change = relative_change(first, mine.since, self.agree)
            if change < self.threshold:
                self.count.spared += 1
                return x_BND + mine.residual
        mine.since, mine.looked_at = first, x_BND.clone()
        return None

    def computed(self, context: TextContext, x_BND: Tensor) -> None:
        mine = self._of(context)
        assert mine.looked_at is not None
        mine.residual, mine.looked_at = x_BND - mine.looked_at, None
        self.count.computed += 1

    def _of(self, context: TextContext) -> _Pass:
        return self._passes.setdefault(id(context), _Pass())


class TeaCache:
    """Runs no block while the modulated input of the first has changed little: its relative change
    from step to step, put through a polynomial that foretells the output's, adds up to `threshold`.

    Attributes:
        threshold: larger spares more and errs more; 0 spares nothing.
        polynomial: coefficients from the highest power down.
        count: what happened.
        agree: see `Agree`.
    """

    def __init__(self, threshold: float, polynomial: Sequence[float], agree: Agree = alone):
        self.threshold, self.agree, self.count = threshold, agree, CacheCount()
        self.polynomial = tuple(polynomial)
        self._passes: dict[int, _Pass] = {}

    def before_first(
        self, context: TextContext, x_BND: Tensor, normed_BND: Tensor
    ) -> Tensor | None:
        mine = self._of(context)
        before, mine.looked_at = mine.looked_at, normed_BND.clone()
        if before is not None and mine.residual is not None:
            mine.change += self._foretold(relative_change(normed_BND, before, self.agree))
            if mine.change < self.threshold:
                self.count.spared += 1
                return x_BND + mine.residual
        mine.change, mine.start = 0.0, x_BND.clone()
        return None

    def after_first(self, context: TextContext, x_BND: Tensor) -> Tensor | None:
        return None

    def computed(self, context: TextContext, x_BND: Tensor) -> None:
        mine = self._of(context)
        assert mine.start is not None
        mine.residual, mine.start = x_BND - mine.start, None
        self.count.computed += 1

    def _of(self, context: TextContext) -> _Pass:
        return self._passes.setdefault(id(context), _Pass())

    def _foretold(self, change: float) -> float:
        value = 0.0
        for coefficient in self.polynomial:
            value = value * change + coefficient
        return abs(value)


def relative_change(now: Tensor, before: Tensor, agree: Agree = alone) -> float:
    """Mean absolute difference over mean absolute value, in float32."""
    difference = (now.float() - before.float()).abs().mean()
    sizes = agree(torch.stack([difference, before.float().abs().mean()]))
    return float(sizes[0] / sizes[1].clamp(min=1e-12))
