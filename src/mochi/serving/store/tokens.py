"""Who is who: tokens, of which the database keeps hashes alone, and the server's own secrets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

import sqlalchemy as sa

from mochi.core.errors import RequestError
from mochi.serving.jobs import new_id
from mochi.serving.store.database import Database
from mochi.serving.store.tables import secrets, tokens

Scope = Literal["read", "run", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "run", "metrics", "admin")
MAX_PRIORITY = 100
_TOKEN = re.compile(r"mochi_([a-z2-7]{26})_([a-z2-7]{52})")
_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_t = tokens.c
_IN_USE = sa.select(_t.id).where(_t.revoked_at.is_(None)).limit(1)
_ONE = sa.select(tokens).where(_t.id == sa.bindparam("which"), _t.revoked_at.is_(None))


@dataclass(frozen=True)
class Allowance:
    """What a token may take.

    Attributes:
        concurrency: jobs that run at once; more wait. None: no limit.
        seconds_per_day: of a device within 24 hours; None: no limit.
        priority: its jobs go before those of a lower one.
    """

    concurrency: int | None = None
    seconds_per_day: float | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise RequestError("concurrency", self.concurrency, "must be at least 1", 1)
        if self.seconds_per_day is not None and not self.seconds_per_day > 0:
            raise RequestError("seconds_per_day", self.seconds_per_day, "must be more than 0", 3600)
        if not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            rule = f"must be -{MAX_PRIORITY} to {MAX_PRIORITY}"
            raise RequestError("priority", self.priority, rule, 0)


UNLIMITED = Allowance()


@dataclass(frozen=True)
class Identity:
    """Who asks, and what they may do; `token` is the id of theirs, if they have one."""

    account: str
    scopes: frozenset[str]
    token: str | None = None
    allowance: Allowance = UNLIMITED

    def may(self, scope: Scope) -> bool:
        """`run` includes `read`, `admin` includes all."""
        if "admin" in self.scopes or scope in self.scopes:
            return True
        return scope == "read" and "run" in self.scopes


@dataclass(frozen=True)
class TokenRow:
    """A token as it is listed: never itself."""

    id: str
    account: str
    scopes: Sequence[str]
    created_at: float
    revoked_at: float | None
    concurrency: int | None
    seconds_per_day: float | None
    priority: int


class Tokens:
    """The tables of tokens and secrets."""

    def __init__(self, database: Database):
        self._database = database
        self.needed = False  # whether a token exists, as last seen; housekeeping looks for others'

    def create(
        self,
        scopes: Sequence[str],
        account: str | None = None,
        allowance: Allowance = UNLIMITED,
    ) -> str:
        """A new token; it is shown this once.

        Args:
            scopes: of `SCOPES`.
            account: whose; a new account if None. Tokens of one account see the same predictions.
            allowance: what may be taken with it.

        Raises:
            RequestError: an unknown scope, or a name that is no account's.
        """
        for scope in scopes:
            if scope not in SCOPES:
                raise RequestError("scope", scope, "is unknown", ", ".join(SCOPES))
        token_id, secret = new_id(), base64.b32encode(os.urandom(32)).decode().rstrip("=").lower()
        account = account or f"account-{token_id[:8]}"
        if not _ACCOUNT.fullmatch(account):
            rule = "is no account: small letters, digits, '.', '_' and '-', at most 63"
            raise RequestError("account", account, rule)
        values = {
            "id": token_id,
            "account": account,
            "hash": _hash(secret),
            "scopes": list(dict.fromkeys(scopes)),
            "created_at": self._database.clock(),
            **asdict(allowance),
        }
        with self._database.write() as connection:
            connection.execute(sa.insert(tokens), values)
        self.needed = True
        return f"mochi_{token_id}_{secret}"

    def find(self, token: str) -> Identity | None:
        """Who holds a token; None where it is unknown or revoked. Compared in constant time."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        with self._database.single() as connection:
            row = connection.execute(_ONE, {"which": match[1]}).one_or_none()
        kept = row.hash if row is not None else _hash("")
        if not hmac.compare_digest(kept, _hash(match[2])) or row is None:
            return None
        allowance = Allowance(row.concurrency, row.seconds_per_day, row.priority)
        return Identity(row.account, frozenset(row.scopes), row.id, allowance)

    def any(self) -> bool:
        """Whether a token exists, so that everybody needs one."""
        with self._database.single() as connection:
            self.needed = connection.execute(_IN_USE).first() is not None
        return self.needed

    def all(self) -> list[TokenRow]:
        """Every token there was, oldest first."""
        columns = [_t[field.name] for field in fields(TokenRow)]
        with self._database.read() as connection:
            rows = connection.execute(sa.select(*columns).order_by(_t.created_at))
            return [TokenRow(**row._mapping) for row in rows]

    def revoke(self, token_id: str) -> bool:
        """Make a token worthless; False: there is none of this id."""
        mine = sa.and_(_t.id == token_id, _t.revoked_at.is_(None))
        with self._database.write() as connection:
            change = sa.update(tokens).where(mine).values(revoked_at=self._database.clock())
            return connection.execute(change).rowcount == 1

    def secret(self, name: str) -> bytes:
        """32 random bytes by name, the same for all servers of this database."""
        new = base64.b64encode(os.urandom(32)).decode()
        with self._database.write() as connection:
            insert = self._database.insert(secrets).on_conflict_do_nothing()
            connection.execute(insert, {"name": name, "value": new})
            query = sa.select(secrets.c.value).where(secrets.c.name == name)
            return base64.b64decode(connection.execute(query).scalar_one())


def _hash(secret: str) -> str:
    """The secret has 256 random bits: a plain hash of it cannot be turned around."""
    return hashlib.sha256(secret.encode()).hexdigest()
