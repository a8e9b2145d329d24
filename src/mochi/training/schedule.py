"""Learning rates over time."""

from __future__ import annotations

import math

SCHEDULES = ("cosine", "linear", "constant")


def warmup_cosine(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """Factor of the learning rate at `step` of `steps`: linear from 0, then half a cosine.

    Args:
        floor: the factor at the end.
    """
    return warmup_then("cosine", step, steps, warmup, floor)


def warmup_then(kind: str, step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """Factor of the learning rate at `step` of `steps`: linear from 0, then one of `SCHEDULES`."""
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if kind == "cosine" else 1 - progress
    return floor + (1 - floor) * fall
