"""One stage of nano's training: the trainer with a recipe in place of a config file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mochi.training.checkpoints import Checkpoints
from mochi.training.ema import WeightAverage
from mochi.training.events import StepDone, TrainingEvent
from mochi.training.task import Loop, Task
from mochi.training.trainer import Trainer

Report = Callable[[dict[str, float]], None]

_EVERY, _SMOOTH = 10, 0.95


class _Told:
    """A reporter that gives the smoothed figures of every tenth step to a function."""

    def __init__(self, report: Report):
        self._report = report
        self._recent: float | None = None

    def __call__(self, event: TrainingEvent) -> None:
        if not isinstance(event, StepDone):
            return
        before = event.loss if self._recent is None else self._recent
        self._recent = _SMOOTH * before + (1 - _SMOOTH) * event.loss
        if event.step % _EVERY == 0 or event.step == event.steps:
            seconds = event.elapsed_seconds
            figures = {"step": float(event.step), "seconds": seconds, "loss": self._recent}
            self._report({**figures, **event.terms})


def train_task(
    task: Task,
    loop: Loop,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    recipe: Any,
    report: Report | None,
) -> WeightAverage:
    """Train, or go on from the checkpoint in `folder`; returns the averaged weights.

    Args:
        task, loop, optimizer: as the trainer wants them; `loop` has an average.
        folder: of the checkpoints.
        recipe: a dataclass; a checkpoint of another one is refused.
        report: told the figures now and then.

    Raises:
        WeightsError: a checkpoint is damaged or of another recipe.
        TrainingError: a loss is no number.
    """
    checkpoints = Checkpoints(folder, {"recipe": asdict(recipe)}, keep=1)
    reporters = [] if report is None else [_Told(report)]
    trainer = Trainer(task, loop, optimizer, checkpoints, reporters=reporters)
    trainer.run()
    assert trainer.average is not None
    return trainer.average
