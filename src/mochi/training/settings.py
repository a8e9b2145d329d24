"""What a config means to the trainer: how its loop goes, and what its checkpoints belong to."""

from __future__ import annotations

from typing import Any

from mochi.training.config import Config
from mochi.training.schedule import warmup_then
from mochi.training.task import Loop

MAY_CHANGE = {
    "training": ("accumulate", "checkpointed_blocks", "context", "shard"),
    "validation": ("every", "sigmas"),
    "saving": ("folder", "every", "keep"),
    "model": ("name",),
    "data": ("path",),
    "prior": ("prompts",),
}
"""Settings that a training may go on with changed: the same numbers come out, within rounding."""


def loop_of(config: Config) -> Loop:
    """The trainer's own settings."""
    optimiser, steps = config.optimiser, config.training.steps
    warmup = min(optimiser.warmup_steps, steps // 2)

    def rate(step: int) -> float:
        return warmup_then(optimiser.schedule, step, steps, warmup, optimiser.floor)

    return Loop(
        steps=steps,
        rate=rate,
        seed=config.training.seed,
        clip_norm=optimiser.clip_norm,
        ema=optimiser.ema,
        save_every=config.saving.every,
    )


def identity_of(config: Config, base: str, data: str) -> dict[str, Any]:
    """What a checkpoint may only be used with: the settings that decide numbers, the base model,
    the clips."""
    kept = config.to_dict()
    for section in ("samples", "reports"):
        kept.pop(section, None)
    for section, names in MAY_CHANGE.items():
        for name in names:
            kept.get(section, {}).pop(name, None)
    return {**kept, "base": base, "clips": data}
