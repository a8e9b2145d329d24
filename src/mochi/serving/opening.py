"""Opening a server's folder and database: what `mochi serve` and `mochi token` share."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mochi.core.errors import RequestError
from mochi.serving.settings import ServeSettings
from mochi.serving.store.database import Database
from mochi.serving.store.migrations import upgrade


def database_url(settings: ServeSettings) -> str:
    """The PostgreSQL of the settings, or SQLite in the data folder."""
    return settings.database or f"sqlite:///{settings.data / 'mochi.db'}"


def open_database(settings: ServeSettings) -> Database:
    """The database with all tables, up to date; raises as `open_services`."""
    make_folder(settings.data)
    database = Database.open(database_url(settings))
    upgrade(database)
    return database


def make_folder(folder: Path) -> None:
    """Make the data folder, for its owner alone; raises RequestError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            folder.chmod(0o700)
    except OSError as error:
        raise RequestError("data", str(folder), f"cannot be made: {error.strerror}") from error
