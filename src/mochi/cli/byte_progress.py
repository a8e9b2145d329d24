"""Progress in bytes: of downloads, of checksums, of conversions."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mochi.cli.progress import clock

OnBytes = Callable[[str, int, int], None]
"""Hears a file's name, and bytes done and to do over all files."""

_SECONDS_BETWEEN_LINES = 5.0


def byte_size(count: int) -> str:
    """A size to read: 20.1 GB, 3.4 MB, 512 bytes."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


@contextmanager
def byte_progress(quiet: bool) -> Iterator[OnBytes]:
    """A bar in bytes on a terminal, a line every five seconds elsewhere."""
    if quiet:
        yield lambda name, done, total: None
    elif sys.stderr.isatty():
        with _byte_bar() as bar:
            task = bar.add_task("", total=None)

            def move(name: str, done: int, total: int) -> None:
                bar.update(task, description=name, completed=done, total=total)

            yield move
    else:
        yield _ByteLines()


class _ByteLines:
    """Progress in bytes as lines, with the time that is left."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done  # what was here before says nothing about the speed
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        fresh = max(1, done - self._first)
        left = (now - self._began) / fresh * (total - done)
        share = 100 * done / max(1, total)
        print(f"{name}: {share:.0f} %, {clock(left)} left", file=sys.stderr, flush=True)


def _byte_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn(binary_units=False),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        redirect_stdout=False,
    )
