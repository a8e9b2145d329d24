"""What was found in the models' files, so that a restart need not wait to look again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from mochi.serving.runner.protocol import Description, ModelEntry
from mochi.serving.store.database import Database
from mochi.serving.store.tables import models


class Catalog:
    """The table of models."""

    def __init__(self, database: Database):
        self._database = database

    def put(self, entry: ModelEntry, found: Description) -> None:
        """Remember what a runner found."""
        values = {
            "name": entry.name,
            "source": entry.source,
            "version": found.version,
            "description": asdict(found),
            "created_at": self._database.clock(),
        }
        insert = self._database.insert(models)
        changed = {name: insert.excluded[name] for name in ("source", "version", "description")}
        with self._database.write() as connection:
            connection.execute(
                insert.on_conflict_do_update(index_elements=["name"], set_=changed), values
            )

    def known(self, entries: Sequence[ModelEntry]) -> dict[str, tuple[Description, float]]:
        """Descriptions and first times of those models that were seen, from the same source."""
        sources = {entry.name: entry.source for entry in entries}
        with self._database.read() as connection:
            return {
                row.name: (Description(**row.description), row.created_at)
                for row in connection.execute(sa.select(models))
                if sources.get(row.name) == row.source
            }
