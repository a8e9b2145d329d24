"""One runner's working life: claim a job, run it, store what it made, end it; again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import structlog

from mochi.core.errors import Cancelled, OutputError
from mochi.serving.batches import fits_beside, passes_tokens
from mochi.serving.bell import JOBS
from mochi.serving.jobs import Job, Outcome, new_id
from mochi.serving.made import forget, read_note
from mochi.serving.reporting import Report
from mochi.serving.runner.protocol import RunFailedError, Runner, RunnerDiedError
from mochi.serving.shelf import Shelf, end, patiently, stored
from mochi.serving.store.database import DatabaseError

log = structlog.get_logger()
_LOOK_SECONDS = 1.0
_LONGEST_PAUSE = 60.0


class Worker:
    """A thread that keeps one runner busy.

    Attributes:
        trouble: why it waits though there may be jobs; empty where all is well.
    """

    def __init__(self, runner: Runner, shelf: Shelf):
        self.runner = runner
        self.trouble = ""
        self._shelf = shelf
        self._owner = f"{shelf.owner}:{runner.state.name}"
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._pause = 1.0
        self._runs: list[_Run] = []
        self._thread = threading.Thread(target=self._loop, name=f"worker {self._owner}")

    @property
    def file_ids(self) -> set[str]:
        """Of the videos that are being made: their bytes may be there before their rows."""
        return {run.file_id for run in list(self._runs)}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def hold(self) -> None:
        """Renew leases that ran out, or nearly, while this process slept or starved: its runs are
        alive all the same, and are not to be begun again."""
        for run in list(self._runs):
            run.hold()

    def stop(self, patience_seconds: float) -> None:
        """Claim nothing more; the running job may end by then, or is handed back."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is None:
            return  # never started
        self._thread.join(patience_seconds)
        if self._thread.is_alive():
            for run in self._runs:
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
                    self._pause, self.trouble = 1.0, ""
                except (RunnerDiedError, DatabaseError, OutputError) as error:
                    self.trouble = str(error)
                    log.warning("worker_waits", owner=self._owner, reason=self.trouble)
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
        jobs = [job, *self._beside(job)]
        shelf.bus.ring(JOBS)
        ids = [it.id for it in jobs] if len(jobs) > 1 else []
        self._runs = [_Run(it, self.runner, shelf, ids) for it in jobs]
        try:
            self._work(self._runs)
        finally:
            self._runs = []

    def _beside(self, job: Job) -> list[Job]:
        """Waiting jobs that are made in one batch with this one, because that is faster. One that
        has lost its runner once is made alone: it may be what kills them."""
        known = self.runner.state.descriptions.get(job.model)
        room = 0 if known is None else known.together_tokens // passes_tokens(job.request)
        most = min(self._shelf.together, room) - 1
        if most < 1 or job.attempts > 1:
            return []
        store, seconds = self._shelf.store, self._shelf.lease_seconds
        fits = partial(fits_beside, job.request)
        try:
            return store.claim_beside(job, self._owner, seconds, most, fits)
        except DatabaseError:  # this one is claimed, and begins
            return []

    def _work(self, runs: Sequence[_Run]) -> None:
        """Each run in a thread, the first one in this; raises what the first of them raises."""
        errors: list[Exception] = []

        def work(run: _Run) -> None:
            try:
                run.work()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(run,)) for run in runs[1:]]
        for thread in threads:
            thread.start()
        work(runs[0])
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _wait(self, seconds: float) -> None:
        self._stopping.wait(seconds)


class _Run:
    """One job on one runner, from its claim to its end."""

    def __init__(self, job: Job, runner: Runner, shelf: Shelf, beside: Sequence[str] = ()):
        self.job = job
        self._beside = beside
        self._runner = runner
        self._shelf = shelf
        self._handing_back = False
        self._report = Report(job, shelf, lambda: runner.cancel(job.id))
        self.file_id = new_id()
        self._path = shelf.work / f"{self.file_id}.mp4"

    def hold(self) -> None:
        """See `Worker.hold`."""
        self._report.hold()

    def hand_back(self) -> None:
        """Stop, and let the job wait again."""
        self._handing_back = True
        self._runner.cancel(self.job.id)

    def work(self) -> None:
        job = self.job
        self._report.start()
        log.info("job_started", id=job.id, account=job.account, attempt=job.attempts)
        try:
            self._shelf.bring(self._runner, job)
            facts = self._runner.run(
                job.id, job.model, job.request, self._path, self._report.hear, self._beside
            )
            self._end(stored(self._shelf, job, self._path, facts))
        except Cancelled:
            if self._handing_back:
                self._give_back("the server stops; it waits again", blame=False)
        except RunFailedError as error:
            self._refused(error)
        except RunnerDiedError as error:
            self._died(error)
            raise
        except OutputError as error:
            self._give_back(str(error), blame=False)
            raise
        finally:
            self._report.close()
            forget(self._path)
            log.info("job_left", id=job.id)

    def _died(self, error: RunnerDiedError) -> None:
        """The job waits again, unless the runner died after its work was done, or too often."""
        made, job = read_note(self._path), self.job
        if made is not None:
            self._end(stored(self._shelf, job, self._path, made.facts))
        elif job.attempts >= self._shelf.max_attempts:
            words = f"[runner_died] {error}; it was tried {job.attempts} times"
            self._end(Outcome(error=f"{words}, and a smaller video may work"))
        else:
            self._give_back(str(error), blame=True)

    def _refused(self, error: RunFailedError) -> None:
        if error.code == "disk_full":
            self._give_back(str(error), blame=False)
            raise OutputError(str(error))
        self._end(Outcome(error=f"[{error.code}] {error}"))

    def _end(self, outcome: Outcome) -> None:
        lines, progress = self._report.rest()
        end(self._shelf, self.job, outcome, lines, **progress)

    def _give_back(self, line: str, *, blame: bool) -> None:
        shelf, job = self._shelf, self.job
        if patiently(job.id, lambda: shelf.store.give_back(job, line, blame=blame)):
            with suppress(DatabaseError):
                retry = {"attempt": job.attempts, "reason": line}
                shelf.bus.publish(job.id, ("retry", retry))
            shelf.bus.ring(job.id, JOBS)
