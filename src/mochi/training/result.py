"""What a training leaves behind: an adapter's folder, or a network's file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from mochi.training.events import Sampled, Started, StepDone, TrainingEvent, Validated
from mochi.training.export import Card, Shown
from mochi.video.output import disk_errors
from mochi.weights.loading import ALWAYS_FLOAT32


class LastSeen:
    """A reporter that remembers what the card of an adapter tells of the end of its training.

    Attributes:
        before: the videos that an earlier run made at a step, where this one made none.
    """

    def __init__(self) -> None:
        self.before: Callable[[int], Sampled | None] = lambda step: None
        self._settings: Mapping[str, Any] = {}
        self._facts: Mapping[str, Any] = {}
        self._results: dict[str, object] = {}
        self._sampled: Sampled | None = None

    def __call__(self, event: TrainingEvent) -> None:
        if isinstance(event, Started):
            self._settings, self._facts = event.settings, event.facts
        elif isinstance(event, StepDone):
            self._results["loss of the last step"] = event.loss
        elif isinstance(event, Validated):
            self._results["validation loss"] = event.loss
        elif isinstance(event, Sampled):
            self._sampled = event

    def card(self, steps: int, trigger: str) -> Card:
        """The card; `trigger` is a caption that is typical of the clips."""
        facts, sampled = self._facts, self._sampled or self.before(steps)
        shown = (
            []
            if sampled is None
            else list(zip(sampled.paths, sampled.prompts, sampled.seeds, strict=True))
        )
        return Card(
            base=str(facts["base"]),
            base_sha256=str(facts["base_sha256"]),
            steps=steps,
            data={name: facts[name] for name in ("clips", "validation_clips")},
            settings=self._settings,
            results=self._results,
            samples=[Shown(*one) for one in shown],
            trigger=trigger,
        )


def write_network(network: nn.Module, path: Path, dtype: torch.dtype | None) -> Path:
    """All weights of a network, in the dtype that it computes in; None keeps float32.

    Raises:
        OutputError: it cannot be written.
    """
    state = {
        name: tensor.detach()
        .to("cpu", torch.float32 if name in ALWAYS_FLOAT32 else dtype or tensor.dtype)
        .contiguous()
        for name, tensor in network.state_dict().items()
    }
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(state, partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path
