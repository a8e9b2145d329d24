"""How a training is going, on stderr: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from mochi.cli.progress import clock
from mochi.cli.say import printable
from mochi.training.events import (
    Finished,
    Notice,
    Reporter,
    Sampled,
    Started,
    StepDone,
    TrainingEvent,
    Validated,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SECONDS_BETWEEN_LINES = 10.0
_MEAN_OF = 50


@contextmanager
def training_progress(quiet: bool = False, stream: TextIO | None = None) -> Iterator[Reporter]:
    """A reporter that prints, for as long as the context lasts."""
    stream = stream or sys.stderr
    if quiet:
        yield _ignore
    elif stream.isatty():
        with _bar(stream) as bar:
            yield TrainingBar(bar)
    else:
        yield TrainingLines(stream)


def _ignore(event: TrainingEvent) -> None:
    """Nobody listens."""


class _Words:
    """What is said about events, whatever shows it."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_MEAN_OF)

    def step(self, event: StepDone) -> str:
        self._losses.append(event.loss)
        mean = sum(self._losses) / len(self._losses)
        return f"loss {mean:.4f}, {event.seconds:.2f} s/step, {clock(event.eta_seconds)} left"

    def other(self, event: TrainingEvent) -> str | None:
        """One line; None for what needs none."""
        if isinstance(event, Started):
            again = f"goes on after step {event.done}" if event.done else "begins"
            return f"training {again}: {event.steps} steps, in {event.folder}"
        if isinstance(event, Validated):
            each = ", ".join(f"{sigma:g}: {loss:.4f}" for sigma, loss in event.losses.items())
            return f"step {event.step}: validation {event.loss:.4f} (sigma {each})"
        if isinstance(event, Sampled):
            return f"step {event.step}: samples in {event.paths[0].parent}" if event.paths else None
        if isinstance(event, Notice):
            return event.message
        if isinstance(event, Finished):
            return f"done in {clock(event.seconds)}: {event.path}"
        return None


class TrainingLines:
    """A line every ten seconds, and one for whatever else happens: for logs and pipes."""

    def __init__(self, stream: TextIO):
        self._stream, self._words = stream, _Words()
        self._last = 0.0

    def __call__(self, event: TrainingEvent) -> None:
        """Print what the event says, if it is time."""
        if isinstance(event, StepDone):
            words, now = self._words.step(event), time.monotonic()
            if now - self._last >= _SECONDS_BETWEEN_LINES or event.step == event.steps:
                self._last = now
                self._print(f"step {event.step}/{event.steps}, {words}")
            return
        line = self._words.other(event)
        if line is not None:
            self._print(line)

    def _print(self, line: str) -> None:
        print(printable(line), file=self._stream, flush=True)


class TrainingBar:
    """One bar on a terminal, with lines above it."""

    def __init__(self, bar: Progress):
        self._bar, self._words = bar, _Words()
        self._task: TaskID | None = None

    def __call__(self, event: TrainingEvent) -> None:
        """Move the bar, or print a line above it."""
        if isinstance(event, Started):
            self._task = self._bar.add_task(
                "Training", total=event.steps, completed=event.done, left=""
            )
        if isinstance(event, StepDone):
            if self._task is not None:
                words = self._words.step(event)
                self._bar.update(self._task, completed=event.step, left=words)
            return
        line = self._words.other(event)
        if line is not None:
            self._bar.console.print(printable(line), markup=False, highlight=False)


def _bar(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[left]}"),
        console=Console(file=stream),
        redirect_stdout=False,
    )
