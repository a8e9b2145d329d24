"""What a run says on its way, written down now and then: its story, its log, its lease.

A small clip takes steps faster than anyone can look, and each line that is written takes processor
time from the run itself where cores are few. So what is said is gathered, and a thread of its own
writes it a few times a second: events in one transaction, log and progress in another that renews
the lease too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import structlog

from mochi.serving.bus import Kind, News
from mochi.serving.jobs import Job
from mochi.serving.progress import bar
from mochi.serving.shelf import Shelf
from mochi.serving.store.database import DatabaseError

log = structlog.get_logger()
_TOLD = ("phase", "step", "frames", "preview", "log")
_SECONDS_BEFORE_FIRST = 0.05
_SECONDS_BETWEEN = 0.25


class Report:
    """Gathers what one run says, and renews its lease.

    Args:
        job: the row that was claimed.
        shelf: where things are written.
        on_lost: called once, when the job is found to be no longer ours.
    """

    def __init__(self, job: Job, shelf: Shelf, on_lost: Callable[[], None]):
        self._job = job
        self._shelf = shelf
        self._on_lost = on_lost
        self._ours = True
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._news: list[News] = []
        self._text = ""
        self._progress: dict[str, Any] = {}
        self._until = time.time() + shelf.lease_seconds
        self._thread = threading.Thread(target=self._loop, name=f"lease {job.id}", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def hear(self, kind: str, data: Mapping[str, Any]) -> None:
        """An event of the run, in the runner's reading thread."""
        with self._lock:
            if kind == "phase":
                self._progress |= {"phase": data["phase"]}
            elif kind == "step":
                self._progress |= {"step": data["step"], "steps": data["steps"]}
                self._text += f"{bar(data)}\n"
            elif kind == "log":
                self._text += f"{data['line']}\n"
            if kind in _TOLD:
                self._news.append((cast(Kind, kind), data))

    def rest(self) -> tuple[str, dict[str, Any]]:
        """Write what is left of the story; returns lines and progress that no row has yet."""
        with self._writing:
            self._tell()
            return self._take()

    def close(self) -> None:
        """Write nothing more."""
        self._over.set()
        self._thread.join()

    def hold(self) -> None:
        """Renew the lease if it ran out, or nearly: this process slept or starved."""
        late = time.time() > self._until - self._shelf.lease_seconds / 2
        if late and not self._over.is_set():
            with self._writing:
                self._keep()

    def _loop(self) -> None:
        """Write, and notice a cancellation, while the run goes on."""
        pause = _SECONDS_BEFORE_FIRST
        while not self._over.wait(pause):
            with self._writing:
                self._tell()
                self._keep()
            pause = _SECONDS_BETWEEN

    def _tell(self) -> None:
        with self._lock:
            news, self._news = self._news, []
        if news and self._ours:
            with suppress(DatabaseError):  # progress that is missed comes with the next step
                self._shelf.bus.publish(self._job.id, *news)

    def _take(self) -> tuple[str, dict[str, Any]]:
        with self._lock:
            text, self._text = self._text, ""
            progress, self._progress = self._progress, {}
        return text, progress

    def _keep(self) -> None:
        """Renew the lease with what was heard; the run is stopped when the job is not ours."""
        text, progress = self._take()
        seconds = self._shelf.lease_seconds
        until = time.time() + seconds
        try:
            ours = self._shelf.store.keep(self._job, seconds, text, **progress)
        except DatabaseError as error:
            log.warning("lease_not_renewed", id=self._job.id, reason=str(error))
            with self._lock:
                self._text = text + self._text
                self._progress = progress | self._progress
            return
        self._until = until
        if not ours and self._ours:
            self._ours = False
            self._on_lost()
