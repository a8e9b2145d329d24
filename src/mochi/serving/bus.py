"""What happens to a job, told to whoever listens, now or later: kept in order, resumed by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from mochi.serving.bell import Bell, LocalBell, PostgresBell, Wake, story_of
from mochi.serving.store.database import Database
from mochi.serving.store.tables import events

Kind = Literal["phase", "step", "frames", "preview", "log", "retry"]
News = tuple[Kind, Mapping[str, Any]]
"""An event that is to be told: its kind and its data."""

_MINE = events.c.prediction == sa.bindparam("job")
_ADD = sa.insert(events)
_FORGET_PREVIEWS = sa.delete(events).where(_MINE, events.c.type == "preview")
_SINCE = (
    sa.select(events.c.id, events.c.type, events.c.data)
    .where(_MINE, events.c.id > sa.bindparam("after"))
    .order_by(events.c.id)
)
_SINCE_WITHOUT_PREVIEWS = _SINCE.where(events.c.type != "preview")


@dataclass(frozen=True)
class Told:
    """An event of a job; ids rise."""

    id: int
    type: str
    data: Mapping[str, Any]


class EventBus(Protocol):
    """Events of jobs. Thread safe."""

    def publish(self, job_id: str, *news: News) -> None:
        """Keep events and wake who listens. A preview replaces those before."""

    def since(self, job_id: str, after: int, *, previews: bool = True) -> list[Told]:
        """Events behind an id, in order."""

    def ring(self, *topics: str) -> None:
        """Wake who listens to a job's beginnings and ends, or to the queue."""

    def listen(self, topic: str, wake: Wake) -> Callable[[], None]:
        """Call `wake` at each event or ring, from any thread, until the result is called."""

    def close(self) -> None:
        """Stop listening to others."""


class SqlEvents:
    """Events in a database, which is its own to close, and a bell."""

    def __init__(self, database: Database, bell: Bell):
        self._database = database
        self._bell = bell

    def publish(self, job_id: str, *news: News) -> None:
        """Keep events and wake who listens. A preview replaces those before."""
        last = max((at for at, (kind, _) in enumerate(news) if kind == "preview"), default=None)
        rows = [
            {"prediction": job_id, "type": kind, "data": dict(data)}
            for at, (kind, data) in enumerate(news)
            if kind != "preview" or at == last
        ]
        topic = story_of(job_id)
        with suppress(sa.exc.IntegrityError), self._database.write() as connection:
            # A job that was deleted meanwhile has no story any more.
            if last is not None:
                connection.execute(_FORGET_PREVIEWS, {"job": job_id})
            connection.execute(_ADD, rows)
            self._bell.announce(connection, topic)
        self._bell.wake(topic)

    def since(self, job_id: str, after: int, *, previews: bool = True) -> list[Told]:
        """Events behind an id, in order."""
        query = _SINCE if previews else _SINCE_WITHOUT_PREVIEWS
        with self._database.single() as connection:
            rows = connection.execute(query, {"job": job_id, "after": after})
            return [Told(**row._mapping) for row in rows]

    def ring(self, *topics: str) -> None:
        """Wake who listens to a job's beginnings and ends, or to the queue."""
        self._bell.ring(*topics)

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
