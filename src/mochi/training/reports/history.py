"""Everything that a training has said so far, kept in its folder, so that it survives a restart."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from mochi.core.errors import OutputError
from mochi.training.events import (
    Finished,
    Notice,
    Sampled,
    Saved,
    Started,
    StepDone,
    TrainingEvent,
    Validated,
)
from mochi.video.output import disk_errors

NAME = "history.jsonl"


@dataclass(frozen=True)
class Step:
    """One update of the weights."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    terms: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Story:
    """What is known about a training.

    Attributes:
        steps: in order.
        validated, sampled: likewise.
        notices: what a user should know.
        finished: the end, once it is there.
        last: the latest step as it was told, with its ETA; None before the first of this process.
    """

    started: Started | None = None
    steps: list[Step] = field(default_factory=list)
    validated: list[Validated] = field(default_factory=list)
    sampled: list[Sampled] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    finished: Finished | None = None
    last: StepDone | None = None

    def take(self, event: TrainingEvent) -> None:
        """Add an event."""
        if isinstance(event, Started):
            self._go_back(event)
        elif isinstance(event, StepDone):
            told = event.step, event.loss, event.lr, event.grad_norm, event.seconds
            self.steps.append(Step(*told, dict(event.terms)))
            self.last = event
        elif isinstance(event, Validated):
            self.validated.append(event)
        elif isinstance(event, Sampled):
            self.sampled.append(event)
        elif isinstance(event, Notice):
            self.notices.append(event.message)
        elif isinstance(event, Finished):
            self.finished = event

    def _go_back(self, started: Started) -> None:
        """What an earlier run told about later steps will be told again."""
        done = started.done
        self.started, self.finished, self.last = started, None, None
        self.steps = [it for it in self.steps if it.step <= done]
        # A training that begins anew also looks again before its first step.
        self.validated = [it for it in self.validated if done and it.step <= done]
        self.sampled = [it for it in self.sampled if done and it.step <= done]


class History:
    """Keeps the story in `history.jsonl` of the training's folder: a reporter.

    Attributes:
        story: what was told, that of earlier runs included.
    """

    def __init__(self) -> None:
        self.story = Story()
        self._file: TextIO | None = None

    def __call__(self, event: TrainingEvent) -> None:
        """Take and keep one event.

        Raises:
            OutputError: the disk refuses.
        """
        if isinstance(event, Started):
            self._open(event)
            return
        self.story.take(event)
        row = _row(event)
        if row is not None and self._file is not None:
            with disk_errors(Path(self._file.name)):
                self._file.write(row)
                self._file.flush()
        if isinstance(event, Finished):
            self.close()

    def close(self) -> None:
        """Nothing more will come."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, started: Started) -> None:
        """Read what earlier runs told, drop what this one will tell again, write the rest."""
        self.close()
        path = started.folder / NAME
        self.story = Story(notices=self.story.notices)  # of this process, before it began
        for event in _read(path, started.folder):
            self.story.take(event)
        self.story.take(started)
        part = path.with_name(f".{NAME}.{os.getpid()}.part")
        with disk_errors(path):
            started.folder.mkdir(parents=True, exist_ok=True)
            try:
                part.write_text("".join(_kept(self.story)), encoding="utf-8")
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
            self._file = path.open("a", encoding="utf-8")


def read_history(folder: Path) -> Story:
    """The story of a training so far, from its folder; empty where there is none.

    Raises:
        OutputError: it cannot be read.
    """
    story = Story()
    for event in _read(folder / NAME, folder):
        story.take(event)
    return story


def _kept(story: Story) -> Iterator[str]:
    for step in story.steps:
        yield _line("step", vars(step))
    looks: list[TrainingEvent] = [*story.validated, *story.sampled]
    for look in looks:
        row = _row(look)
        assert row is not None
        yield row


def _row(event: TrainingEvent) -> str | None:
    """An event as a line; None for what a restart tells anew."""
    if isinstance(event, StepDone):
        names = ("step", "loss", "lr", "grad_norm", "seconds", "terms")
        return _line("step", {name: getattr(event, name) for name in names})
    if isinstance(event, Validated):
        losses = {repr(sigma): loss for sigma, loss in event.losses.items()}
        return _line("validated", {"step": event.step, "loss": event.loss, "losses": losses})
    if isinstance(event, Sampled):
        kept = {"paths": [str(path) for path in event.paths], "prompts": event.prompts}
        return _line("sampled", {"step": event.step, "seeds": event.seeds, **kept})
    assert isinstance(event, (Saved, Notice, Finished, Started))
    return None


def _line(kind: str, values: Mapping[str, Any]) -> str:
    return json.dumps({"kind": kind, **values}, default=dict) + "\n"


def _read(path: Path, folder: Path) -> Iterator[TrainingEvent]:
    """The events in a file; a line that a kill cut short is the last, and is left out."""
    if not path.exists():
        return
    try:
        lines = path.read_text("utf-8", errors="replace").split("\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror or error}") from error
    for line in lines:
        try:
            yield _event(json.loads(line), folder)
        except (ValueError, KeyError, TypeError):
            continue


def _event(row: dict[str, Any], folder: Path) -> TrainingEvent:
    kind = row["kind"]
    if kind == "step":
        names = ("step", "loss", "lr", "grad_norm", "seconds")
        known = {name: row[name] for name in names}
        return StepDone(**known, steps=0, elapsed_seconds=0, eta_seconds=0, terms=row["terms"])
    if kind == "validated":
        losses = {float(sigma): loss for sigma, loss in row["losses"].items()}
        return Validated(row["step"], losses, row["loss"])
    if kind == "sampled":
        paths = tuple(map(Path, row["paths"]))
        return Sampled(row["step"], paths, tuple(row["prompts"]), tuple(row["seeds"]))
    raise KeyError(kind)
