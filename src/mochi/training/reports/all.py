"""The reporters that a training has, by what its user asked for."""

from __future__ import annotations

from collections.abc import Sequence

from mochi.training.events import Reporter
from mochi.training.reports.history import History
from mochi.training.reports.page import Page


def file_reporters(
    tensorboard: bool = False, wandb: str | None = None, wandb_mode: str | None = None
) -> Sequence[Reporter]:
    """Those that write files: the history and the run page always, others on request.

    Args:
        tensorboard: also TensorBoard's files.
        wandb: also Weights & Biases, under this project.
        wandb_mode: `online`, `offline`, `disabled`, or None for that program's own settings.

    Raises:
        MochiError: a package for one of them is not installed; says how to get it.
    """
    history = History()
    found: list[Reporter] = [history, Page(history)]
    if tensorboard or wandb is not None:
        from mochi.training.reports.others import TensorBoard, WeightsAndBiases

        if tensorboard:
            found.append(TensorBoard())
        if wandb is not None:
            found.append(WeightsAndBiases(wandb, wandb_mode))
    return found
