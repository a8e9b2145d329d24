"""What a token may take: runs at once, seconds a day, its place before others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add columns, and a table of what was used."""
    op.add_column("predictions", sa.Column("token", sa.String(length=26)))
    op.add_column("tokens", sa.Column("concurrency", sa.Integer()))
    op.add_column("tokens", sa.Column("seconds_per_day", sa.Double()))
    priority = sa.Column("priority", sa.Integer(), nullable=False, server_default="0")
    op.add_column("tokens", priority)
    op.create_table(
        "usage",
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("token", sa.String(length=26)),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("usage_by_token", "usage", ["token", "at"])
