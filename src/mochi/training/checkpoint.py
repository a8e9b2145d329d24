"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mochi.core.errors import WeightsError
from mochi.training.ema import WeightAverage


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path`, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_progress(
    path: Path,
    step: int,
    recipe: Any,
    model: nn.Module,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Everything that `resume` needs after `step` steps of a recipe (a dataclass)."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "recipe": json.dumps(asdict(recipe)),
    }
    save_checkpoint(path, state)


def resume(
    path: Path,
    recipe: Any,
    model: nn.Module,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Put everything back as `save_progress` saw it; returns the steps done, 0 without a file.

    Raises:
        WeightsError: the checkpoint is damaged, or was made with another recipe.
    """
    state = load_checkpoint(path)
    if state is None:
        return 0
    then, now = json.loads(state["recipe"]), json.loads(json.dumps(asdict(recipe)))
    changed = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
    if changed:
        raise WeightsError(f"was made with another recipe (differs in {', '.join(changed)})", path)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    step: int = state["step"]
    return step


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, or None where there is no such file.

    Raises:
        WeightsError: the file is damaged, or would run code.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged file
        reason = str(error).splitlines()[0]
        raise WeightsError(f"is no readable checkpoint: {reason}", path) from error
    return state
