"""Adapters that were trained on one of several servers, by name."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from mochi.serving.store.database import Database
from mochi.serving.store.tables import adapters


@dataclass(frozen=True)
class SharedAdapter:
    """An adapter that all servers offer.

    Attributes:
        model: that it fits.
        key: of its bytes among the blobs, the id of its training.
    """

    name: str
    model: str
    key: str


class Adapters:
    """The table of trained adapters."""

    def __init__(self, database: Database):
        self._database = database

    def add(self, new: SharedAdapter) -> bool:
        """Keep one; False: its name is another's. Adding the same again is well."""
        values = {"name": new.name, "model": new.model, "key": new.key}
        insert = self._database.insert(adapters).on_conflict_do_nothing()
        with self._database.write() as connection:
            connection.execute(insert, values | {"created_at": self._database.clock()})
            holder = sa.select(adapters.c.key).where(adapters.c.name == new.name)
            return connection.scalar(holder) == new.key

    def remove(self, key: str) -> None:
        """Give a name back."""
        with self._database.write() as connection:
            connection.execute(sa.delete(adapters).where(adapters.c.key == key))

    def all(self) -> dict[str, SharedAdapter]:
        """All of them, by name, oldest first."""
        columns = (adapters.c.name, adapters.c.model, adapters.c.key)
        query = sa.select(*columns).order_by(adapters.c.created_at)
        with self._database.read() as connection:
            return {row.name: SharedAdapter(*row) for row in connection.execute(query)}
