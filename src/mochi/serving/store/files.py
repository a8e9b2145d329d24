"""Rows for what lies in the blobs: finished videos and uploads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mochi.serving.jobs import is_id
from mochi.serving.store.database import Database
from mochi.serving.store.tables import files

_f = files.c
_ONE = sa.select(files).where(_f.id == sa.bindparam("which"))
_ONE_OF_ACCOUNT = _ONE.where(_f.account == sa.bindparam("who"))


@dataclass(frozen=True)
class NewFile:
    """A file whose bytes are in the blobs under its id.

    Attributes:
        prediction: the job that made it; None for an upload.
    """

    id: str
    account: str
    name: str
    content_type: str
    size: int
    sha256: str
    prediction: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredFile(NewFile):
    """A row of `files`; `created_at` in seconds since 1970."""

    seq: int = 0
    created_at: float = 0.0


class Files:
    """The table of files."""

    def __init__(self, database: Database):
        self._database = database

    def add(self, new: NewFile) -> StoredFile:
        """Make a file known; its bytes are there already. Repeating it changes nothing."""
        with self._database.write() as connection:
            add(self._database, connection, new)
            row = connection.execute(_ONE, {"which": new.id}).one()
            return StoredFile(**row._mapping)

    def get(self, file_id: str, account: str | None = None) -> StoredFile | None:
        """A file, of this account alone if one is given."""
        if not is_id(file_id):
            return None
        query = _ONE if account is None else _ONE_OF_ACCOUNT
        with self._database.single() as connection:
            row = connection.execute(query, {"which": file_id, "who": account}).one_or_none()
        return None if row is None else StoredFile(**row._mapping)

    def page(self, account: str, limit: int, before: int | None = None) -> list[StoredFile]:
        """An account's uploads, newest first."""
        query = sa.select(files).where(_f.account == account, _f.prediction.is_(None))
        if before is not None:
            query = query.where(_f.seq < before)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_f.seq.desc()).limit(limit))
            return [StoredFile(**row._mapping) for row in rows]

    def uploads_before(self, moment: float, limit: int = 100) -> list[StoredFile]:
        """Uploads from before `moment`, oldest first: what retention removes."""
        old = sa.and_(_f.prediction.is_(None), _f.created_at < moment)
        with self._database.read() as connection:
            rows = connection.execute(sa.select(files).where(old).order_by(_f.seq).limit(limit))
            return [StoredFile(**row._mapping) for row in rows]

    def of(self, prediction: str) -> list[StoredFile]:
        """Everything that a job made."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(files).where(_f.prediction == prediction))
            return [StoredFile(**row._mapping) for row in rows]

    def remove(self, file_id: str) -> None:
        """Forget a file; its bytes are the caller's to delete."""
        with self._database.write() as connection:
            connection.execute(sa.delete(files).where(_f.id == file_id))

    def known(self) -> set[str]:
        """Every id: what is in the blobs and not here was never promised to anyone."""
        with self._database.read() as connection:
            return set(connection.scalars(sa.select(_f.id)))


def add(database: Database, connection: Connection, new: NewFile) -> None:
    """As `Files.add`, in a transaction of what the file belongs to."""
    insert = database.insert(files).on_conflict_do_nothing()
    connection.execute(insert, asdict(new) | {"created_at": database.clock()})
