"""What tokens may take: how many runs at once, how many seconds of a device within a day.

Seconds that were used are kept apart from predictions: deleting one does not give them back.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mochi.serving.jobs import Job
from mochi.serving.store.database import Database
from mochi.serving.store.tables import predictions, tokens, usage

DAY = 24 * 3600.0
_p = predictions.c


class Usage:
    """The table of what was used."""

    def __init__(self, database: Database):
        self._database = database

    def of(self, token: str) -> float:
        """Seconds that a token has used within the last day, what runs now included."""
        now = self._database.clock()
        used = sa.select(sa.func.sum(usage.c.seconds)).where(
            usage.c.token == token, usage.c.at > now - DAY
        )
        mine = sa.and_(_p.status == "processing", _p.token == token)
        running = sa.select(sa.func.sum(now - _p.started_at)).where(mine)
        with self._database.read() as connection:
            return sum(float(connection.scalar(query) or 0.0) for query in (used, running))

    def promised(self, token: str) -> float:
        """Seconds that a token's waiting jobs are expected to take."""
        mine = sa.and_(_p.status == "starting", _p.token == token)
        with self._database.read() as connection:
            found = connection.scalar(sa.select(sa.func.sum(_p.estimate_seconds)).where(mine))
        return float(found or 0.0)

    def forget(self) -> None:
        """Drop what is older than any limit looks back."""
        with self._database.write() as connection:
            old = usage.c.at < self._database.clock() - 2 * DAY
            connection.execute(sa.delete(usage).where(old))


def note(connection: Connection, job: Job, now: float) -> None:
    """A run of this job ended, well or not: its seconds are used."""
    if job.started_at is None:
        return
    values = {
        "at": now,
        "account": job.account,
        "token": job.token,
        "seconds": max(0.0, now - job.started_at) / job.metrics.get("together", 1),
    }
    connection.execute(sa.insert(usage), values)


def may_run(token: Any) -> Any:
    """Whether fewer jobs of a token run than may; no token, no limit."""
    other = predictions.alias("other")
    running = sa.select(sa.func.count()).where(
        other.c.status == "processing", other.c.token == token
    )
    limit = sa.select(tokens.c.concurrency).where(tokens.c.id == token).scalar_subquery()
    return sa.or_(token.is_(None), limit.is_(None), limit > running.scalar_subquery())


def still_may(connection: Connection, token: str | None) -> bool:
    """Ask again with the token's row in hand: another job may have been claimed meanwhile."""
    if token is None:
        return True
    mine = sa.select(tokens.c.id).where(tokens.c.id == token)
    if connection.execute(mine.with_for_update()).one_or_none() is None:
        return True
    return bool(connection.scalar(sa.select(may_run(sa.literal(token)))))
