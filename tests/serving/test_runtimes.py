"""Estimates come from runs that ended, each counted once, in whatever order they became known."""

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from mochi.serving.store.database import Database
from mochi.serving.store.migrations import upgrade
from mochi.serving.store.runtimes import Runtimes
from mochi.serving.store.tables import runtimes

RUN = {"model": "a/b", "frames": 7, "height": 64, "width": 64, "steps": 4}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database.open(f"sqlite:///{tmp_path / 'queue.sqlite'}")
    upgrade(database)
    return database


def add(database: Database, *ids: int) -> None:
    """Runs of as many seconds as their id says."""
    rows = [
        {**RUN, "id": number, "version": "1", "seconds": number, "created_at": time.time()}
        for number in ids
    ]
    with database.write() as connection:
        connection.execute(sa.insert(runtimes), rows)


def seconds(known: Runtimes) -> list[float]:
    return [second for runtime in known.all() for second in runtime.seconds]


def test_a_transaction_that_ends_late_is_not_missed(database: Database) -> None:
    known = Runtimes(database)
    assert known.estimate("a/b", RUN) is None
    add(database, 1, 2, 5)
    assert seconds(known) == [1, 2, 5]
    add(database, 3, 6)
    assert seconds(known) == [1, 2, 3, 5, 6]
    add(database, 4)
    assert seconds(known) == seconds(known) == [1, 2, 3, 4, 5, 6]


def test_only_the_latest_count(database: Database) -> None:
    known = Runtimes(database)
    add(database, *range(1, 400))
    known.all()
    add(database, *range(400, 1200))
    assert seconds(known) == list(range(700, 1200))
    assert known.estimate("a/b", RUN) == {"p50": 950, "p90": 1150}
