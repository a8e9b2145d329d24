"""Progress on stderr: bars with an ETA on a terminal, plain lines anywhere else, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from mochi.core.events import (
    Event,
    FramesDone,
    Notice,
    OnEvent,
    Phase,
    PhaseEnded,
    PhaseStarted,
    StepDone,
    ignore,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LABELS: dict[Phase, str] = {
    "load": "Loading weights",
    "text": "Reading the prompt",
    "encode": "Encoding",
    "denoise": "Denoising",
    "decode": "Decoding",
    "write": "Writing",
}
_SECONDS_BETWEEN_LINES = 2.0


@contextmanager
def progress(quiet: bool = False, stream: TextIO | None = None) -> Iterator[OnEvent]:
    """A listener for the events of runs, shown for as long as the context lasts."""
    stream = stream or sys.stderr
    if quiet:
        yield ignore
    elif stream.isatty():
        with _bars(stream) as bars:
            yield Bars(bars)
    else:
        yield Lines(stream)


class Lines:
    """One line for each phase, and one every two seconds within it: for logs and pipes."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        """Print what the event says, if it is time."""
        if isinstance(event, PhaseStarted):
            self._last = time.monotonic()
        elif isinstance(event, PhaseEnded):
            self._print(f"{_LABELS[event.phase]}: {event.seconds:.1f} s")
        elif isinstance(event, StepDone):
            self._seldom(
                f"  step {event.step}/{event.steps}, {event.seconds:.2f} s/step, "
                f"{clock(event.eta_seconds)} left"
            )
        elif isinstance(event, FramesDone):
            self._seldom(f"  frame {event.frames}/{event.total}")
        elif isinstance(event, Notice):
            self._print(event.message)

    def _seldom(self, line: str) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Bars:
    """One bar for each phase on a terminal."""

    def __init__(self, bars: Progress):
        self._bars = bars
        self._tasks: dict[Phase, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Move the bar of the event's phase."""
        if isinstance(event, PhaseStarted):
            self._start(event)
        elif isinstance(event, PhaseEnded):
            self._end(event)
        elif isinstance(event, StepDone):
            left = f"{event.seconds:.2f} s/step, {clock(event.eta_seconds)} left"
            self._bars.update(
                self._tasks["denoise"], completed=event.step, total=event.steps, left=left
            )
        elif isinstance(event, FramesDone):
            self._bars.update(self._tasks["decode"], completed=event.frames, total=event.total)
        elif isinstance(event, Notice):
            self._bars.console.print(event.message, markup=False, highlight=False)

    def _start(self, event: PhaseStarted) -> None:
        if event.phase in self._tasks:  # a second run under the same bars: start over
            self._bars.remove_task(self._tasks[event.phase])
        self._tasks[event.phase] = self._bars.add_task(
            _LABELS[event.phase], total=event.total, left=""
        )

    def _end(self, event: PhaseEnded) -> None:
        task = self._tasks[event.phase]
        total = self._bars.tasks[self._bars.task_ids.index(task)].total or 1
        self._bars.update(task, completed=total, total=total, left=f"{event.seconds:.1f} s")


def _bars(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<19}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[left]}"),
        console=Console(file=stream),
        redirect_stdout=False,  # results may go to a pipe while the bars go to a terminal
    )


def clock(seconds: float) -> str:
    """A duration to read: 8 s, 4:05, 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
