"""Who did what, when: a line for each run and each refusal. Prompts are kept as hashes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from mochi.serving.store.database import Database
from mochi.serving.store.tables import audit


class Audit:
    """The table of audit lines; it outlives the jobs it tells of."""

    def __init__(self, database: Database):
        self._database = database

    def add(self, account: str, action: str, prediction: str | None, **detail: Any) -> None:
        """One line."""
        values = {
            "at": self._database.clock(),
            "account": account,
            "action": action,
            "prediction": prediction,
            "detail": detail,
        }
        with self._database.write() as connection:
            connection.execute(sa.insert(audit), values)

    def latest(self, limit: int = 1000) -> list[Mapping[str, Any]]:
        """The newest lines first."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(audit).order_by(audit.c.id.desc()).limit(limit))
            return [dict(row._mapping) for row in rows]
