"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mochi.core.errors import WeightsError


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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"is no readable checkpoint: {reason}", path) from error
    return state
