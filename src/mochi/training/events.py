"""What a training says while it runs.

The trainer calls each of its reporters with one of the events below, in its own thread and in
order; on many devices the first process alone does. Steps count from 1: step N is done when N
updates of the weights are.

Order: `Started`, then for each step `StepDone`, perhaps followed by `Validated`, `Sampled` and
`Saved`, and in the end `Finished`. A training that goes on after a crash begins with
`Started(done=N)`; what it reports from there replaces what an earlier run reported for steps after
N (that run got further than its last checkpoint).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Started:
    """A training begins, or goes on.

    Attributes:
        done: steps that are done already; 0 unless it goes on from a checkpoint.
        steps: of the whole training.
        folder: where everything goes that it writes.
        settings: every setting with its value, by section, as in the config file.
        facts: what was found out: base model, clips, trained parameters, processes, plan.
    """

    done: int
    steps: int
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepDone:
    """The weights were updated once more.

    Attributes:
        step: updates so far, from 1 to `steps`.
        loss: mean over the global batch of this step.
        lr: learning rate of this step.
        grad_norm: before clipping.
        seconds: duration of this step.
        elapsed_seconds: since this process began its first step.
        eta_seconds: expected until the last step.
        names: clips of this step's global batch.
        terms: other figures of this step, by name; a VAE's `psnr` for example.
    """

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    elapsed_seconds: float
    eta_seconds: float
    names: tuple[str, ...] = ()
    terms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Validated:
    """The loss on clips that are not trained on, with the same noise every time.

    Attributes:
        step: updates so far; 0 before the first.
        losses: by noise level.
        loss: their mean.
    """

    step: int
    losses: Mapping[float, float]
    loss: float


@dataclass(frozen=True)
class Sampled:
    """Videos were made with the weights as they are now, from the same prompts and seeds each time.

    Attributes:
        step: updates so far; 0 before the first.
        paths: one video for each prompt.
        prompts, seeds: of the videos.
    """

    step: int
    paths: tuple[Path, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on the disk, whole; a crash after this loses nothing before `step`."""

    step: int
    path: Path


@dataclass(frozen=True)
class Notice:
    """Something that a user should know."""

    message: str


@dataclass(frozen=True)
class Finished:
    """All steps are done and the result is written.

    Attributes:
        path: the adapter's folder, or the trained weights'.
        seconds: of this process, from its first step to now.
    """

    step: int
    path: Path
    seconds: float


TrainingEvent = Started | StepDone | Validated | Sampled | Saved | Notice | Finished


class Reporter(Protocol):
    """Whoever listens to a training; returns quickly, and raises `Cancelled` to stop it."""

    def __call__(self, event: TrainingEvent) -> None:
        """Take one event."""
        ...
