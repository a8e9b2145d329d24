"""Progress of a run as events: how far, how long still, what the video looks like now."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from mochi.core.events import StepDone

if TYPE_CHECKING:
    import numpy as np

OnStep = Callable[[StepDone], None]

Picture = Callable[[Tensor], "np.ndarray"]
"""A clean DiT-space latent `(B, C, t, h, w)` as pictures, uint8 `(t, h, w, 3)`."""


class Progress:
    """Times the steps of one run and tells a listener about each.

    The expected time is the mean of the steps so far times the steps to come.
    """

    def __init__(
        self,
        steps: int,
        on_step: OnStep | None,
        picture: Picture | None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._steps = steps
        self._on_step = on_step
        self._picture = picture
        self._clock = clock
        self._began = self._last = clock()

    def step_done(self, step: int, z: Tensor, v: Tensor, sigma: float, sigma_next: float) -> None:
        """Report that step number `step`, from 0, went from `z` at sigma to sigma_next with `v`."""
        if self._on_step is None:
            return
        now = self._clock()
        elapsed, done = now - self._began, step + 1
        event = StepDone(
            step=done,
            steps=self._steps,
            sigma=sigma_next,
            seconds=now - self._last,
            elapsed_seconds=elapsed,
            eta_seconds=elapsed / done * (self._steps - done),
            preview=self._preview(z, v, sigma),
        )
        self._on_step(event)
        self._last = now

    def _preview(self, z: Tensor, v: Tensor, sigma: float) -> Callable[[], np.ndarray] | None:
        picture = self._picture
        if picture is None:
            return None
        return lambda: picture(z + sigma * v)  # the clean video, were the velocity to stay as it is
