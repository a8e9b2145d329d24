"""The tables. `migrations/` builds them; a test holds the two equal."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

_Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up INTEGER keys alone

predictions = Table(
    "predictions",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", String(26), nullable=False, unique=True),
    Column("account", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("version", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("input", JSON, nullable=False),
    Column("request", JSON, nullable=False),
    Column("output_file", String(26)),
    Column("error", Text),
    Column("logs", Text, nullable=False),
    Column("phase", String(16)),
    Column("step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("completed_at", Double),
    Column("deadline", Double),
    Column("priority", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("lease_token", String(26)),
    Column("lease_owner", String(128)),
    Column("lease_until", Double),
    Column("estimate_seconds", Double),
    Column("webhook", Text),
    Column("webhook_events", JSON, nullable=False),
    Column("idempotency_key", String(300)),
    Column("body_hash", String(64), nullable=False),
    Column("source", String(16), nullable=False),
    Column("batch", String(26)),
    Column("shared", Boolean, nullable=False),
    Column("extras", JSON, nullable=False),
    Column("token", String(26)),
    UniqueConstraint("account", "idempotency_key", name="one_job_per_key"),
    Index("predictions_by_status", "status", "priority", "seq"),
    Index("predictions_by_account", "account", "seq"),
    Index("predictions_by_batch", "batch"),
    sqlite_autoincrement=True,
)

accounts = Table(
    "accounts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("last_claim", Double, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column(
        "prediction", String(26), ForeignKey("predictions.id", ondelete="CASCADE"), nullable=False
    ),
    Column("type", String(16), nullable=False),
    Column("data", JSON, nullable=False),
    Index("events_by_prediction", "prediction", "id"),
    sqlite_autoincrement=True,
)

files = Table(
    "files",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", String(26), nullable=False, unique=True),
    Column("account", String(64), nullable=False),
    Column("prediction", String(26)),
    Column("name", String(255), nullable=False),
    Column("content_type", String(128), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("files_by_account", "account", "seq"),
    Index("files_by_prediction", "prediction"),
    sqlite_autoincrement=True,
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    Column("concurrency", Integer),
    Column("seconds_per_day", Double),
    Column("priority", Integer, nullable=False, server_default="0"),
)

usage = Table(
    "usage",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("account", String(64), nullable=False),
    Column("token", String(26)),
    Column("seconds", Double, nullable=False),
    Index("usage_by_token", "token", "at"),
    sqlite_autoincrement=True,
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("message", String(64), nullable=False, unique=True),
    Column(
        "prediction", String(26), ForeignKey("predictions.id", ondelete="CASCADE"), nullable=False
    ),
    Column("event", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Double, nullable=False),
    Index("outbox_by_time", "next_at"),
    sqlite_autoincrement=True,
)

runtimes = Table(
    "runtimes",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("model", String(128), nullable=False),
    Column("version", String(64), nullable=False),
    Column("frames", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("width", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("runtimes_by_model", "model", "id"),
    sqlite_autoincrement=True,
)

models = Table(
    "models",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("source", Text, nullable=False),
    Column("version", String(64), nullable=False),
    Column("description", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", String(128), nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("account", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("prediction", String(26)),
    Column("detail", JSON, nullable=False),
    Index("audit_by_time", "at"),
    sqlite_autoincrement=True,
)

adapters = Table(
    "adapters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("model", String(128), nullable=False),
    Column("key", String(26), nullable=False),
    Column("created_at", Double, nullable=False),
)
