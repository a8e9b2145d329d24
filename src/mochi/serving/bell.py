"""Waking those who wait: a bell for each topic, within a process or across PostgreSQL.

A ring carries no data and may be missed when a machine dies, so whoever waits also looks now
and then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from mochi.serving.store.database import Database

Wake = Callable[[], None]
CHANNEL = "mochi"
JOBS = "jobs"
"""The topic of the queue: something was enqueued, taken or ended."""


class Bell(Protocol):
    """Rings and listeners, by topic. Thread safe."""

    def ring(self, topic: str) -> None:
        """Wake everyone who listens to a topic."""

    def listen(self, topic: str, wake: Wake) -> Callable[[], None]:
        """Call `wake` at each ring, from any thread, until the returned function is called."""

    def close(self) -> None:
        """Stop listening to others."""


class LocalBell:
    """Within one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[str, list[Wake]] = {}

    def ring(self, topic: str) -> None:
        """Wake everyone who listens to a topic."""
        with self._lock:
            listeners = list(self._listeners.get(topic, ()))
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
        self._closed = threading.Event()
        self.ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="bell", daemon=True)
        self._thread.start()

    def ring(self, topic: str) -> None:
        """Wake everyone, here at once, elsewhere as soon as PostgreSQL tells them."""
        super().ring(topic)
        with self._database.write() as connection:
            connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (CHANNEL, topic))

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
                    super().ring(note.payload)


@contextmanager
def heard(bell: Bell, topic: str) -> Iterator[threading.Event]:
    """An event that is set at each ring."""
    event = threading.Event()
    leave = bell.listen(topic, event.set)
    try:
        yield event
    finally:
        leave()
