"""Webhooks to send: put in with the change they tell of, taken out when they arrived."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from mochi.serving.store.database import Database
from mochi.serving.store.tables import outbox

_o = outbox.c
_DUE = (
    sa.select(_o.id, _o.message, _o.prediction, _o.event, _o.created_at, _o.attempts)
    .where(_o.next_at <= sa.bindparam("now"))
    .order_by(_o.id)
)


@dataclass(frozen=True)
class Letter:
    """A webhook to send; `attempts` counts those before. Times in seconds since 1970."""

    id: int
    message: str
    prediction: str
    event: str
    created_at: float
    attempts: int


class Outbox:
    """The table of webhooks to send."""

    def __init__(self, database: Database):
        self._database = database

    def take(self, limit: int, seconds: float) -> list[Letter]:
        """Those that are due; nobody else gets them for so many seconds."""
        now = self._database.clock()
        with self._database.single() as connection:  # most often nothing is
            if connection.execute(_DUE.limit(1), {"now": now}).first() is None:
                return []
        with self._database.write() as connection:
            due = _DUE.limit(limit).with_for_update(skip_locked=True)
            rows = connection.execute(due, {"now": now}).all()
            ids = [row.id for row in rows]
            later = sa.update(outbox).where(_o.id.in_(ids)).values(next_at=now + seconds)
            connection.execute(later)
        return [Letter(**row._mapping) for row in rows]

    def done(self, letter: Letter) -> None:
        """It arrived, or is given up."""
        with self._database.write() as connection:
            connection.execute(sa.delete(outbox).where(_o.id == letter.id))

    def again(self, letter: Letter, seconds: float) -> None:
        """It did not arrive: try again in so many seconds."""
        values = {"attempts": _o.attempts + 1, "next_at": self._database.clock() + seconds}
        with self._database.write() as connection:
            connection.execute(sa.update(outbox).where(_o.id == letter.id).values(values))
