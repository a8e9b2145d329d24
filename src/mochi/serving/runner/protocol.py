"""What the server asks of a runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

State = Literal["starting", "idle", "busy", "failed", "stopped"]
Listen = Callable[[str, Mapping[str, Any]], None]
"""Hears what happens in a run: kinds and data of the events that clients hear, and `log`."""


@dataclass(frozen=True)
class LoraEntry:
    """An adapter that the server's configuration offers.

    Attributes:
        source: what `Pipeline.add_lora` is given.
        scale: where nobody says one.
    """

    name: str
    source: str
    scale: float = 1.0
    mode: str = "live"
    description: str = ""


@dataclass(frozen=True)
class Watch:
    """A classifier: where it is, which of its labels are watched, and from which chance on."""

    source: str
    labels: tuple[str, ...]
    threshold: float
    licence: str | None = None


@dataclass(frozen=True)
class Checks:
    """What is looked at around a run.

    Attributes:
        blocks: whether a finding ends the run; else it is told with the facts.
    """

    blocks: bool = False
    prompt: Watch | None = None
    frames: Watch | None = None


@dataclass(frozen=True)
class ModelEntry:
    """A model that the server's configuration offers.

    Attributes:
        name: `owner/name`, as clients call it.
        source: what `mochi.load` is given.
        options: further arguments of `mochi.load`, by name.
        loras: adapters that fit it.
        checks: of prompts and frames.
    """

    name: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    loras: tuple[LoraEntry, ...] = ()
    checks: Checks = field(default_factory=Checks)

    @property
    def lora_scales(self) -> dict[str, float]:
        """Usual scales of its adapters, by name."""
        return {lora.name: lora.scale for lora in self.loras}


@dataclass(frozen=True)
class Description:
    """What a runner found in a model's files.

    Attributes:
        version: tells its weights from others', 64 hexadecimal digits.
        defaults: of a request, by field.
        together_tokens: up to so many visual tokens in all, jobs that fit are made as one batch.
    """

    name: str
    version: str
    card_name: str
    licence: str
    defaults: Mapping[str, Any]
    together_tokens: int = 0


@dataclass(frozen=True)
class RunnerState:
    """How a runner is.

    Attributes:
        reason: why it is not ready, in words for people.
        model: the one that is warm.
    """

    name: str
    device: str
    state: State
    reason: str = ""
    model: str | None = None
    descriptions: Mapping[str, Description] = field(default_factory=dict)


class RunFailedError(Exception):
    """A run ended in an error that is not the runner's end.

    Attributes:
        code: for programs, such as `does_not_fit`.
    """

    def __init__(self, code: str, message: str):
        self.code = code
        super().__init__(message)


class RunnerDiedError(Exception):
    """The runner is gone, or did not start; the message says how."""


class Runner(Protocol):
    """One device. `run` is called by a thread for each job of a batch; the rest by any."""

    @property
    def state(self) -> RunnerState:
        """How it is now."""

    def start(self) -> None:
        """Be ready to run, or raise RunnerDiedError. Does nothing where it is ready."""

    def run(
        self,
        job_id: str,
        model: str,
        request: Mapping[str, Any],
        path: Path,
        listen: Listen,
        beside: Sequence[str] = (),
    ) -> Mapping[str, Any]:
        """Make a video at `path`; returns facts about it.

        Args:
            request: `GenerateRequest.to_dict()`, and `loras`: pairs of a name and a scale.
            beside: ids of the jobs of one batch, this one's too; each is run by a thread.

        Raises:
            Cancelled: somebody asked.
            RunFailedError: it cannot be made.
            RunnerDiedError: the runner died.
        """

    def cancel(self, job_id: str) -> None:
        """Stop the run of this job within a step, if it is on."""

    def has_lora(self, model: str, name: str) -> bool:
        """Whether it was told of this adapter of a model."""

    def offer(self, model: str, lora: LoraEntry) -> None:
        """One more adapter, now and after a restart."""

    def ask(self, kind: str, timeout: float = 10.0, **question: Any) -> Mapping[str, Any]:
        """A question that can be answered beside a run: `tokens` or `memory`.

        Raises:
            RunnerDiedError: it is not ready, or does not answer.
            RunFailedError: there is no answer.
        """

    def close(self) -> None:
        """Stop now."""
