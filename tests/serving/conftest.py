"""Databases to test on: SQLite in a folder, and a PostgreSQL that lives as long as the tests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from tests.serving.postgres import cluster

from mochi.serving.store.database import Database
from mochi.serving.store.migrations import upgrade

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
    with cluster() as make:
        yield make


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
