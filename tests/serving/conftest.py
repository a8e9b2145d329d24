"""Databases to test on: SQLite in a folder, and a PostgreSQL that lives as long as the tests."""

from __future__ import annotations

import getpass
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from glob import glob
from itertools import count
from pathlib import Path

import pytest
import structlog

from mochi.serving.store.database import Database
from mochi.serving.store.migrations import upgrade

# Debian keeps the programs of a PostgreSQL server away from the path.
os.environ["PATH"] = ":".join([os.environ["PATH"], *glob("/usr/lib/postgresql/*/bin")])

needs_postgresql = pytest.mark.needs_system("pg_ctl", install="apt-get install postgresql")
BOTH = ["sqlite", pytest.param("postgresql", marks=needs_postgresql)]


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    """Only what went wrong is logged."""
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.LogfmtRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    )


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes an empty database and returns its URL."""
    programs = Path(shutil.which("pg_ctl") or "").resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="mochi-pg"))
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    if os.getuid() == 0:
        shutil.chown(folder, user)

    def call(program: str, *words: str) -> None:
        where = {"user": user} if os.getuid() == 0 else {}
        command = [str(programs / program), *words]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=60, **where)

    data = str(folder / "data")
    call("initdb", "-D", data, "-A", "trust", "-U", "mochi", "--no-sync", "-E", "UTF8")
    settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    log = ["-l", str(folder / "log")]
    call("pg_ctl", "-D", data, *log, "-o", f"{settings} -c max_connections=200", "-w", "start")
    names = (f"test{number}" for number in count())

    def make() -> str:
        name = next(names)
        call("createdb", "-h", str(folder), "-U", "mochi", name)
        return f"postgresql://mochi@/{name}?host={folder}"

    try:
        yield make
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of the kind that the test is parametrised with; else SQLite."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'mochi.db'}"
    return request.getfixturevalue("postgresql")()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    """One with all tables, and a time that the test moves."""
    database = Database.open(database_url, clock)
    upgrade(database)
    yield database
    database.close()
