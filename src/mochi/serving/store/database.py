"""One database for everything: SQLite in WAL mode in a folder, or PostgreSQL by its URL."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError

from mochi.core.errors import MochiError, RequestError

_BUSY_SECONDS = 30
_POOL = 20
_READ_ONLY, _SINGLE = "mochi_read_only", "mochi_single"
_USED_AT = "mochi_used_at"
_QUIET_SECONDS = 1.0
"""A connection that was at work within this time is taken to be alive."""


class DatabaseError(MochiError):
    """The database cannot be reached or refuses to work."""


class Database:
    """An engine, its clock, and the two ways to use it.

    Attributes:
        clock: seconds since 1970. Machines that share a PostgreSQL are expected to agree on the
            time far better than a lease lasts.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time):
        self.engine = engine
        self.clock = clock
        self._singly = engine.execution_options(
            **({"isolation_level": "AUTOCOMMIT"} if self.is_postgresql else {_SINGLE: True})
        )
        # SQLite lets one write at a time, and has the others look again after a nap of up to a
        # tenth of a second. Those of this process wait here instead, and are woken in turn.
        self._turn: AbstractContextManager[object] = (
            nullcontext() if self.is_postgresql else threading.Lock()
        )

    @classmethod
    def open(
        cls, url: str, clock: Callable[[], float] = time.time, *, durable: bool = True
    ) -> Database:
        """Connect; nothing is created yet but SQLite's file.

        Args:
            url: `sqlite:///PATH`, or `postgresql://...`.
            clock: what time it is.
            durable: flush to disk at each commit. Without it SQLite may lose the last commits
                when the power fails, though not when a process dies: fit for progress.

        Raises:
            RequestError: the URL is of neither kind.
        """
        try:
            parsed = sa.make_url(url)
        except ArgumentError:
            raise RequestError("database", "...", "is no database URL", "sqlite:///PATH") from None
        if parsed.get_backend_name() == "sqlite":
            return cls(_sqlite(parsed, durable), clock)
        if parsed.get_backend_name() == "postgresql":
            return cls(_postgresql(parsed, durable), clock)
        rule = "is neither SQLite nor PostgreSQL"
        raise RequestError("database", parsed.get_backend_name(), rule, "postgresql://...")

    @classmethod
    def in_folder(cls, folder: Path, *, durable: bool = True) -> Database:
        """The SQLite database of a data folder."""
        return cls.open(f"sqlite:///{folder / 'mochi.db'}", durable=durable)

    def unflushed(self) -> Database:
        """The same database by connections of its own, whose commits are not flushed to disk."""
        url = self.engine.url.render_as_string(hide_password=False)
        other = Database.open(url, self.clock, durable=False)
        other._turn = self._turn
        return other

    @property
    def is_postgresql(self) -> bool:
        """Whether other machines may share it."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view.

        Raises:
            DatabaseError: it does not answer.
        """
        with _named(), self.engine.connect() as connection:
            yield connection.execution_options(**{_READ_ONLY: True})

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """For statements that need no transaction around them: each one is whole by itself. What
        changes a row is for `write`.

        Raises:
            DatabaseError: it does not answer.
        """
        with _named(), self._singly.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: all of it happens, or, on any exception, none.

        Raises:
            DatabaseError: it does not answer.
        """
        with _named(), self._turn, self.engine.begin() as connection:
            yield connection

    def insert(self, table: sa.Table) -> Any:
        """An insert that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
        return postgresql.insert(table) if self.is_postgresql else sqlite.insert(table)

    def scrub(self) -> None:
        """Let no deleted row stay readable: SQLite's log of changes still holds it until it is
        emptied. Does nothing while somebody reads; it is done again later."""
        if self.is_postgresql:
            return
        raw = self.engine.raw_connection()
        try:
            with self._turn, suppress(sqlite3.Error), closing(raw.cursor()) as cursor:
                cursor.execute("PRAGMA busy_timeout=0")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                cursor.execute(f"PRAGMA busy_timeout={1000 * _BUSY_SECONDS}")
        finally:
            raw.close()

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except (DBAPIError, sa.exc.TimeoutError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise DatabaseError(f"the database does not answer: {cause}") from error


def _sqlite(url: sa.URL, durable: bool) -> Engine:
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS}, pool_size=_POOL)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={'FULL' if durable else 'NORMAL'}",
            "foreign_keys=ON",
            "secure_delete=ON",  # what is deleted is overwritten
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its lock at once: taking it later could fail, after work was done.
        options = connection.get_execution_options()
        if _SINGLE not in options:
            connection.exec_driver_sql("BEGIN" if _READ_ONLY in options else "BEGIN IMMEDIATE")

    return engine


def _postgresql(url: sa.URL, durable: bool) -> Engine:
    options = "" if durable else "-c synchronous_commit=off"
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=_POOL,
        max_overflow=_POOL,
        pool_timeout=_BUSY_SECONDS,
        connect_args={"connect_timeout": 10, "options": options},
    )

    @sa.event.listens_for(engine, "connect")
    @sa.event.listens_for(engine, "checkin")
    def note(connection: Any, record: Any) -> None:
        record.info[_USED_AT] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def see_whether_alive(connection: Any, record: Any, proxy: object) -> None:
        """The database may have gone away and come back."""
        if time.monotonic() - record.info[_USED_AT] < _QUIET_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            raise sa.exc.InvalidatePoolError from None

    return engine
