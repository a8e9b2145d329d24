"""Who did what, when: a line for each run and each refusal. Prompts are kept as hashes alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mochi.serving.jobs import Job
from mochi.serving.store.database import Database, DatabaseError
from mochi.serving.store.tables import audit


class Audit:
    """The table of audit lines; it outlives the jobs it tells of."""

    def __init__(self, database: Database):
        self._database = database

    def add(self, account: str, action: str, prediction: str | None, **detail: Any) -> None:
        """One line."""
        with self._database.write() as connection:
            note(connection, self._database.clock(), account, action, prediction, **detail)

    def flagged(self, job: Job, verdict: Mapping[str, Any]) -> None:
        """What classifiers found in a run that went on; as `ended`."""
        with suppress(DatabaseError):
            self.add(job.account, "flagged", job.id, **verdict)

    def latest(self, limit: int = 1000) -> list[Mapping[str, Any]]:
        """The newest lines first."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(audit).order_by(audit.c.id.desc()).limit(limit))
            return [dict(row._mapping) for row in rows]


def note(
    connection: Connection,
    now: float,
    account: str,
    action: str,
    prediction: str | None,
    **detail: Any,
) -> None:
    """One line, in a transaction of what it tells of."""
    values = {"at": now, "account": account, "action": action, "prediction": prediction}
    connection.execute(sa.insert(audit), values | {"detail": detail})


def note_end(connection: Connection, job: Job, now: float) -> None:
    """How a run ended."""
    refused = (job.error or "").startswith("[refused]")
    detail = {"seconds": job.metrics.get("predict_time")} | (
        {"reason": job.error} if refused else {}
    )
    note(connection, now, job.account, "refused" if refused else job.status, job.id, **detail)
