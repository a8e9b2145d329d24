"""Whose turn it is, as a query, and what taking a job changes."""

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


def in_order(now: float) -> sa.Select[Any]:
    """Waiting jobs in their turn: priority, then those that failed least, then accounts in turn,
    then age. The rows are locked; those that another has locked are passed over."""
    columns = (_p.seq, _p.account, _p.token, _p.version, _p.request)
    return (
        sa.select(*columns)
        .join(accounts, accounts.c.name == _p.account)
        .where(
            _p.status == "starting",
            sa.or_(_p.deadline.is_(None), _p.deadline > now),
            may_run(_p.token),
        )
        .order_by(_p.priority.desc(), _p.attempts, accounts.c.last_claim, _p.seq)
        .with_for_update(of=predictions, skip_locked=True)
    )


@dataclass(frozen=True)
class Lease:
    """Who takes jobs, when, and for how long."""

    owner: str
    now: float
    seconds: float

    def change(self) -> dict[str, Any]:
        """What taking a job changes in its row."""
        return {
            "status": "processing",
            "attempts": _p.attempts + 1,
            "started_at": self.now,
            "lease_token": new_id(),
            "lease_owner": self.owner,
            "lease_until": self.now + self.seconds,
            "phase": None,
            "step": 0,
        }
