"""Whose turn it is, as queries, and what taking a job changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mochi.serving.jobs import new_id
from mochi.serving.store.tables import accounts, predictions
from mochi.serving.store.usage import may_run

LOOKED_AT = 32
"""So many waiting jobs are looked at for some that fit beside another one."""

Fits = Callable[[Mapping[str, Any]], bool]
"""Whether a job's request may be made in one batch with another one's."""

_p = predictions.c


_IN_TURN: sa.Select[Any] = (
    sa.select(_p.seq, _p.account, _p.token, _p.version, _p.request)
    .join(accounts, accounts.c.name == _p.account)
    .where(
        _p.status == "starting",
        sa.or_(_p.deadline.is_(None), _p.deadline > sa.bindparam("now")),
        may_run(_p.token),
    )
    .order_by(_p.priority.desc(), _p.attempts, accounts.c.last_claim, _p.seq)
    .with_for_update(of=predictions, skip_locked=True)
)
"""Waiting jobs in their turn: priority, then those that failed least, then accounts in turn, then
age. The rows are locked; those that another has locked are passed over. The queries are values, as
SQLAlchemy takes longer to put one together than SQLite to answer it."""

NEXT = _IN_TURN.where(_p.model.in_(sa.bindparam("models", expanding=True))).limit(1)
"""The job whose turn it is at `now`, of these `models`."""

BESIDE = _IN_TURN.where(_p.model == sa.bindparam("model"), _p.attempts == 0).limit(LOOKED_AT)
"""Waiting jobs of this `model` that no runner has begun."""

TAKE = (
    sa.update(predictions)
    .where(_p.seq == sa.bindparam("which"))
    .values(
        status="processing",
        attempts=_p.attempts + 1,
        started_at=sa.bindparam("now"),
        lease_token=sa.bindparam("lease"),
        lease_owner=sa.bindparam("owner"),
        lease_until=sa.bindparam("until"),
        phase=None,
        step=0,
    )
    .returning(predictions)
)
"""Take the job of seq `which`."""

CLAIMED = (
    sa.update(accounts)
    .where(accounts.c.name == sa.bindparam("who"))
    .values(last_claim=sa.bindparam("now"))
)
"""A job of account `who` was taken: the others are next."""

STALE = sa.select(predictions).where(
    _p.status.in_(("starting", "processing")),
    sa.or_(
        _p.deadline <= sa.bindparam("now"),
        sa.and_(_p.status == "processing", _p.lease_until <= sa.bindparam("now")),
    ),
)
"""Jobs past their deadline, and those whose runner gives no sign of life."""


@dataclass(frozen=True)
class Lease:
    """Who takes jobs, when, and for how long."""

    owner: str
    now: float
    seconds: float

    def of(self, seq: int) -> dict[str, Any]:
        """What `TAKE` is to be told."""
        until = self.now + self.seconds
        took = {"now": self.now, "until": until, "owner": self.owner}
        return took | {"which": seq, "lease": new_id()}
