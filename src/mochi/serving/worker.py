"""One runner's working life: claim a job, run it, store what it made, end it; again."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from mochi.core.errors import Cancelled, OutputError
from mochi.serving.bell import JOBS
from mochi.serving.blobs import Blobs
from mochi.serving.bus import EventBus, Kind
from mochi.serving.jobs import Job, Outcome, new_id
from mochi.serving.progress import bar
from mochi.serving.runner.protocol import RunFailedError, Runner, RunnerDiedError
from mochi.serving.store.database import DatabaseError
from mochi.serving.store.files import Files, NewFile
from mochi.serving.store.protocol import Store
from mochi.serving.store.runtimes import Runtimes

log = structlog.get_logger()
_LOOK_SECONDS = 1.0
_SECONDS_BETWEEN_RENEWALS = 0.25
_LONGEST_PAUSE = 60.0
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Shelf:
    """What a worker works with.

    Attributes:
        work: folder for videos that are being made.
        owner: who holds the leases; begins with the server's own name.
        price_per_hour: of a device, or None.
        on_ready, on_end: told when a runner has come up, and when a run has ended.
    """

    store: Store
    files: Files
    runtimes: Runtimes
    blobs: Blobs
    bus: EventBus
    work: Path
    owner: str
    models: tuple[str, ...]
    lease_seconds: float = 30.0
    price_per_hour: float | None = None
    on_ready: Callable[[Runner], None] = lambda runner: None
    on_end: Callable[[Job], None] = lambda job: None


class Worker:
    """A thread that keeps one runner busy."""

    def __init__(self, runner: Runner, shelf: Shelf):
        self.runner = runner
        self._shelf = shelf
        self._owner = f"{shelf.owner}:{runner.state.name}"
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._pause = 1.0
        self._run: _Run | None = None
        self._thread = threading.Thread(target=self._loop, name=f"worker {self._owner}")

    @property
    def file_id(self) -> str | None:
        """Of the video that is being made: its bytes may be there before its row."""
        run = self._run
        return None if run is None else run.file_id

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, patience_seconds: float) -> None:
        """Claim nothing more; the running job may end by then, or is handed back."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is None:
            return  # never started
        self._thread.join(patience_seconds)
        if self._thread.is_alive() and (run := self._run) is not None:
            run.hand_back()
            self._thread.join(30.0)
        self.runner.close()
        self._thread.join()

    def _loop(self) -> None:
        leave = self._shelf.bus.listen(JOBS, self._wake.set)
        try:
            while not self._stopping.is_set():
                try:
                    self._once()
                    self._pause = 1.0
                except (RunnerDiedError, DatabaseError, OutputError) as error:
                    log.warning("worker_waits", owner=self._owner, reason=str(error))
                    self._wait(self._pause)
                    self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
                except Exception:
                    log.exception("worker_failed", owner=self._owner)
                    self._wait(self._pause)
        finally:
            leave()

    def _once(self) -> None:
        shelf = self._shelf
        if self.runner.state.state not in ("idle", "busy"):
            self.runner.start()
            shelf.on_ready(self.runner)
        self._wake.clear()
        job = shelf.store.claim(self._owner, shelf.models, shelf.lease_seconds)
        if job is None:
            self._wake.wait(_LOOK_SECONDS)
            return
        shelf.bus.ring(JOBS)
        self._run = _Run(job, self.runner, shelf)
        try:
            self._run.work()
        finally:
            self._run = None
            shelf.bus.ring(job.id)
            shelf.bus.ring(JOBS)

    def _wait(self, seconds: float) -> None:
        self._stopping.wait(seconds)


class _Run:
    """One job on one runner, from its claim to its end."""

    def __init__(self, job: Job, runner: Runner, shelf: Shelf):
        self.job = job
        self._runner = runner
        self._shelf = shelf
        self._ours = True
        self._handing_back = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._progress: dict[str, Any] = {}
        self._renewed = 0.0
        self.file_id = new_id()
        self._path = shelf.work / f"{self.file_id}.mp4"

    def hand_back(self) -> None:
        """Stop, and let the job wait again."""
        self._handing_back = True
        self._runner.cancel(self.job.id)

    def work(self) -> None:
        job = self.job
        keeper = threading.Thread(target=self._keep_alive, name=f"lease {job.id}", daemon=True)
        keeper.start()
        log.info("job_started", id=job.id, account=job.account, attempt=job.attempts)
        try:
            facts = self._runner.run(job.id, job.model, job.request, self._path, self._hear)
            self._end(self._stored(facts))
        except Cancelled:
            if self._handing_back:
                self._give_back("the server stops; it waits again", blame=False)
        except RunFailedError as error:
            self._refused(error)
        except RunnerDiedError as error:
            self._give_back(str(error), blame=True)
            raise
        except OutputError as error:
            self._give_back(str(error), blame=False)
            raise
        finally:
            self._over.set()
            keeper.join()
            self._path.unlink(missing_ok=True)
            log.info("job_left", id=job.id)

    def _refused(self, error: RunFailedError) -> None:
        if error.code == "disk_full":
            self._give_back(str(error), blame=False)
            raise OutputError(str(error))
        self._end(Outcome(error=f"[{error.code}] {error}"))

    def _stored(self, facts: Mapping[str, Any]) -> Outcome:
        """The video into the blobs, and what is known of it into a row, before the job ends."""
        shelf, job, request = self._shelf, self.job, self.job.request
        file_id, name = self.file_id, f"mochi-{job.id}.mp4"
        digest, size = _digest(self._path), self._path.stat().st_size
        shelf.blobs.put(file_id, self._path)
        new = NewFile(file_id, job.account, name, "video/mp4", size, digest, prediction=job.id)
        self._patiently(lambda: shelf.files.add(new))
        seconds = {name: round(value, 4) for name, value in facts.get("seconds", {}).items()}
        metrics = {name: request[name] for name in ("frames", "height", "width", "steps")}
        metrics |= {"fps": request.get("fps", 30), "prompt_tokens": facts.get("prompt_tokens")}
        if "denoise" in seconds:
            metrics["seconds_per_step"] = round(seconds["denoise"] / request["steps"], 4)
        return Outcome(file_id, metrics | {"phases": seconds})

    def _end(self, outcome: Outcome) -> None:
        shelf, job = self._shelf, self.job
        self._renew(force=True)
        if shelf.price_per_hour is not None and outcome.error is None and job.started_at:
            ran = time.time() - job.started_at
            price = {"price": round(ran / 3600 * shelf.price_per_hour, 6)}
            outcome = Outcome(outcome.output_file, {**outcome.metrics, **price})
        ended = self._patiently(lambda: shelf.store.finish(job, outcome))
        if ended is None and outcome.output_file is not None:  # cancelled, or taken by another
            shelf.files.remove(outcome.output_file)
            shelf.blobs.delete(outcome.output_file)
        elif ended is not None:
            if ended.status == "succeeded":
                self._patiently(lambda: shelf.runtimes.add(ended))
            shelf.on_end(ended)

    def _give_back(self, line: str, *, blame: bool) -> None:
        shelf, job = self._shelf, self.job
        if self._patiently(lambda: shelf.store.give_back(job, line, blame=blame)):
            self._publish("retry", {"attempt": job.attempts, "reason": line})

    def _hear(self, kind: str, data: Mapping[str, Any]) -> None:
        """An event of the run, in the runner's reading thread."""
        with self._lock:
            if kind == "phase":
                self._progress |= {"phase": data["phase"]}
            elif kind == "step":
                self._progress |= {"step": data["step"], "steps": data["steps"]}
                self._lines.append(bar(data))
            elif kind == "log":
                self._lines.append(str(data["line"]))
        if self._ours and kind in ("phase", "step", "frames", "preview", "log"):
            self._publish(kind, data)
        self._renew()

    def _publish(self, kind: Any, data: Mapping[str, Any]) -> None:
        known: Kind = kind
        with suppress(DatabaseError):  # progress that is missed comes with the next step
            self._shelf.bus.publish(self.job.id, known, data)

    def _renew(self, *, force: bool = False) -> None:
        """Renew the lease with what was heard; stop when the job is no longer ours."""
        now = time.monotonic()
        with self._lock:
            if not force and now - self._renewed < _SECONDS_BETWEEN_RENEWALS:
                return
            self._renewed = now
            lines, self._lines = self._lines, []
            progress, self._progress = self._progress, {}
        text = "".join(f"{line}\n" for line in lines)
        try:
            ours = self._shelf.store.keep(self.job, self._shelf.lease_seconds, text, **progress)
        except DatabaseError as error:
            log.warning("lease_not_renewed", id=self.job.id, reason=str(error))
            with self._lock:
                self._lines = lines + self._lines
            return
        if not ours and self._ours:
            self._ours = False
            self._runner.cancel(self.job.id)

    def _keep_alive(self) -> None:
        """Renew while the run says nothing, and notice a cancellation."""
        while not self._over.wait(_SECONDS_BETWEEN_RENEWALS):
            self._renew()

    def _patiently(self, act: Callable[[], Any]) -> Any:
        """What must not be lost to a database that is away for a while."""
        pause, patience = 0.2, time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return act()
            except DatabaseError as error:
                log.warning("database_away", id=self.job.id, reason=str(error))
                if time.monotonic() > patience:
                    raise
                time.sleep(pause)
                pause = min(5.0, 2 * pause)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
