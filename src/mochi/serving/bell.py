"""Waking those who wait: a bell for each topic, within a process or across PostgreSQL.

A ring carries no data and may be missed when a machine dies, so whoever waits also looks now
and then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from sqlalchemy.engine import Connection

from mochi.serving.jobs import new_id
from mochi.serving.store.database import Database, DatabaseError

Wake = Callable[[], None]
CHANNEL = "mochi"
_NOTIFY = "SELECT pg_notify(%s, %s)"
JOBS = "jobs"
"""The topic of the queue: something was enqueued, taken or ended."""


def story_of(job_id: str) -> str:
    """The topic of what a run says on its way; the job's own id is that of its beginnings and ends,
    so that whoever waits for an end is not woken by each step."""
    return f"{job_id} story"


class Bell(Protocol):
    """Rings and listeners, by topic. Thread safe."""

    def ring(self, *topics: str) -> None:
        """Wake everyone who listens to one of the topics."""

    def announce(self, connection: Connection, topic: str) -> None:
        """Wake those elsewhere when this transaction is over; `wake` is for those here."""

    def wake(self, *topics: str) -> None:
        """Wake those of this process."""

    def listen(self, topic: str, wake: Wake) -> Callable[[], None]:
        """Call `wake` at each ring, from any thread, until the returned function is called."""

    def close(self) -> None:
        """Stop listening to others."""


class LocalBell:
    """Within one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[str, list[Wake]] = {}

    def ring(self, *topics: str) -> None:
        """Wake everyone who listens to one of the topics."""
        self.wake(*topics)

    def announce(self, connection: Connection, topic: str) -> None:
        """Nobody is elsewhere."""

    def wake(self, *topics: str) -> None:
        """Wake those of this process."""
        with self._lock:
            listeners = [wake for topic in topics for wake in self._listeners.get(topic, ())]
        for wake in listeners:
            wake()

    def listen(self, topic: str, wake: Wake) -> Callable[[], None]:
        """Call `wake` at each ring, from any thread, until the returned function is called."""
        with self._lock:
            self._listeners.setdefault(topic, []).append(wake)

        def leave() -> None:
            with self._lock, suppress(ValueError, KeyError):
                self._listeners[topic].remove(wake)
                if not self._listeners[topic]:
                    del self._listeners[topic]

        return leave

    def close(self) -> None:
        """Nothing to stop."""


class PostgresBell(LocalBell):
    """Across all processes on one PostgreSQL, by NOTIFY and one listening thread."""

    def __init__(self, database: Database, retry_seconds: float = 1.0):
        super().__init__()
        self._database = database
        self._retry_seconds = retry_seconds
        self._name = new_id()  # PostgreSQL brings our own rings back to us
        self._closed = threading.Event()
        self.ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="bell", daemon=True)
        self._thread.start()

    def ring(self, *topics: str) -> None:
        """Wake everyone, here at once, elsewhere as soon as PostgreSQL tells them."""
        self.wake(*topics)
        with suppress(DatabaseError), self._database.single() as connection:
            for topic in topics:
                self.announce(connection, topic)

    def announce(self, connection: Connection, topic: str) -> None:
        """Wake those elsewhere when this transaction is over; `wake` is for those here."""
        connection.exec_driver_sql(_NOTIFY, (CHANNEL, f"{self._name} {topic}"))

    def close(self) -> None:
        """Stop listening to others."""
        self._closed.set()
        self._thread.join(5.0)

    def _serve(self) -> None:
        import psycopg

        url = self._database.engine.url.set(drivername="postgresql")
        address = url.render_as_string(hide_password=False)
        while not self._closed.is_set():
            with suppress(psycopg.Error):  # gone for now; we try again
                self._hear(address)
            self._closed.wait(self._retry_seconds)

    def _hear(self, address: str) -> None:
        import psycopg

        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            self.ready.set()
            while not self._closed.is_set():
                for note in connection.notifies(timeout=0.5):
                    name, _, topic = note.payload.partition(" ")
                    if name != self._name:
                        self.wake(topic)


@contextmanager
def heard(bell: Bell, topic: str) -> Iterator[threading.Event]:
    """An event that is set at each ring."""
    event = threading.Event()
    leave = bell.listen(topic, event.set)
    try:
        yield event
    finally:
        leave()
