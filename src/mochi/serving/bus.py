"""What happens to a job, told to whoever listens, now or later: kept in order, resumed by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from mochi.serving.bell import Bell, LocalBell, PostgresBell, Wake
from mochi.serving.store.database import Database
from mochi.serving.store.tables import events

Kind = Literal["phase", "step", "frames", "preview", "log", "retry"]


@dataclass(frozen=True)
class Told:
    """An event of a job; ids rise."""

    id: int
    type: str
    data: Mapping[str, Any]


class EventBus(Protocol):
    """Events of jobs. Thread safe."""

    def publish(self, job_id: str, kind: Kind, data: Mapping[str, Any]) -> None:
        """Keep an event and wake who listens. A preview replaces the one before."""

    def since(self, job_id: str, after: int, *, previews: bool = True) -> list[Told]:
        """Events behind an id, in order."""

    def ring(self, topic: str) -> None:
        """Wake who listens to a job, or to the queue."""

    def listen(self, topic: str, wake: Wake) -> Callable[[], None]:
        """Call `wake` at each event or ring, from any thread, until the result is called."""

    def close(self) -> None:
        """Stop listening to others."""


class SqlEvents:
    """Events in a database, which is its own to close, and a bell."""

    def __init__(self, database: Database, bell: Bell):
        self._database = database
        self._bell = bell

    def publish(self, job_id: str, kind: Kind, data: Mapping[str, Any]) -> None:
        """Keep an event and wake who listens. A preview replaces the one before."""
        with suppress(sa.exc.IntegrityError), self._database.write() as connection:
            # A job that was deleted meanwhile has no story any more.
            if kind == "preview":
                old = sa.and_(events.c.prediction == job_id, events.c.type == "preview")
                connection.execute(sa.delete(events).where(old))
            values = {"prediction": job_id, "type": kind, "data": dict(data)}
            connection.execute(sa.insert(events), values)
        self._bell.ring(job_id)

    def since(self, job_id: str, after: int, *, previews: bool = True) -> list[Told]:
        """Events behind an id, in order."""
        query = sa.select(events.c.id, events.c.type, events.c.data).where(
            events.c.prediction == job_id, events.c.id > after
        )
        if not previews:
            query = query.where(events.c.type != "preview")
        with self._database.read() as connection:
            return [Told(**row._mapping) for row in connection.execute(query.order_by(events.c.id))]

    def ring(self, topic: str) -> None:
        """Wake who listens to a job, or to the queue."""
        self._bell.ring(topic)

    def listen(self, topic: str, wake: Wake) -> Callable[[], None]:
        """Call `wake` at each event or ring, from any thread, until the result is called."""
        return self._bell.listen(topic, wake)

    def close(self) -> None:
        """Stop listening to others."""
        self._bell.close()
        self._database.close()


def open_bus(database: Database) -> EventBus:
    """The bus that suits a database: a bell in this process for SQLite, NOTIFY for PostgreSQL."""
    bell = PostgresBell(database) if database.is_postgresql else LocalBell()
    return SqlEvents(database, bell)
