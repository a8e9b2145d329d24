"""What the server and its runners ask of a queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from mochi.serving.jobs import Job, NewJob, Outcome, Waiting
from mochi.serving.store.claims import Fits


class Store(Protocol):
    """What the server and its runners ask of a queue. All methods may be called from any thread.

    They raise `DatabaseError` where the database does not answer.
    """

    def add(
        self, jobs: Sequence[NewJob], waiting_limit: int, account_limit: int
    ) -> tuple[list[Job], bool]:
        """Enqueue all or none; returns them, and whether they were there before.

        Raises:
            QueueFullError: too many wait.
            IdempotencyError: their key came before with another body.
        """

    def get(self, job_id: str, account: str | None = None) -> Job | None:
        """A job, of this account alone if one is given."""

    def page(
        self, account: str, limit: int, before: int | None = None, batch: str | None = None
    ) -> list[Job]:
        """An account's jobs, newest first, older than seq `before`."""

    def claim(self, owner: str, models: Sequence[str], lease_seconds: float) -> Job | None:
        """Take the job whose turn it is, for so long."""

    def claim_beside(
        self, job: Job, owner: str, lease_seconds: float, most: int, fits: Fits
    ) -> list[Job]:
        """Take up to `most` jobs of the same model, not run before, that may be made in one batch
        with this one."""

    def keep(self, job: Job, lease_seconds: float, lines: str = "", **progress: Any) -> bool:
        """Renew a lease, with what has happened; False: the job is no longer ours, stop."""

    def finish(self, job: Job, outcome: Outcome, lines: str = "", **progress: Any) -> Job | None:
        """End a job that is ours, with what has happened; None: it is no longer ours, and nothing
        was changed."""

    def give_back(self, job: Job, line: str, *, blame: bool) -> bool:
        """Let it wait again. With `blame` the attempt counts; False: it is no longer ours."""

    def cancel(self, job_id: str, account: str | None = None, error: str | None = None) -> bool:
        """End a job that has not ended. Whoever runs it learns at its next sign of life."""

    def sweep(self, max_attempts: int) -> list[Job]:
        """Let jobs of the dead wait again, end those past their deadline or out of attempts;
        returns what was changed."""

    def release(self, owner: str) -> int:
        """Take back every lease whose owner begins so: that process is known to be gone."""

    def running(self) -> list[Job]:
        """What is being made."""

    def waiting(self) -> list[Waiting]:
        """What waits, in the order in which it will be taken."""
