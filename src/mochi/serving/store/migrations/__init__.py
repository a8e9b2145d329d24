"""How the tables came to be, step by step; `upgrade` brings any database up to date."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from mochi.serving.store.database import Database

_LOCK = 0x6D6F636869  # "mochi": servers that start at once on one PostgreSQL take turns


def upgrade(database: Database) -> None:
    """Create the tables, or bring those of an earlier version up to date. Safe to repeat.

    Raises:
        DatabaseError: it does not answer.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with database.write() as connection:
        if database.is_postgresql:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
