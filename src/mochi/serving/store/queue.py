"""The queue. The `predictions` table is the queue: a job is claimed by a lease on its row.

A lease is a random token and a time. Whoever holds the token may report progress and finish the
job; when the time passes without a sign, the job waits again, and the old token is worth nothing.
So a job is finished at most once whatever dies when, and none waits for the dead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from mochi.serving.jobs import (
    ENDED,
    IdempotencyError,
    Job,
    NewJob,
    Outcome,
    QueueFullError,
    Status,
    Waiting,
    WebhookEvent,
    is_id,
    new_id,
)
from mochi.serving.store import files
from mochi.serving.store.audit import note_end
from mochi.serving.store.claims import BESIDE, CLAIMED, NEXT, STALE, TAKE, Fits, Lease
from mochi.serving.store.database import Database
from mochi.serving.store.runtimes import remember
from mochi.serving.store.tables import accounts, outbox, predictions
from mochi.serving.store.turns import in_turn
from mochi.serving.store.usage import note, still_may

MAX_LOG_CHARS = 200_000
_p = predictions.c
_ADD = sa.insert(predictions).returning(predictions)
_ONE = sa.select(predictions).where(_p.id == sa.bindparam("which"))
_ONE_OF_ACCOUNT = _ONE.where(_p.account == sa.bindparam("who"))
_WAITING = sa.select(
    sa.func.count(), sa.func.count(sa.case((_p.account == sa.bindparam("who"), 1)))
).where(_p.status == "starting")


class SqlStore:
    """The queue in SQLite or PostgreSQL; on the latter many claim at once (SKIP LOCKED)."""

    def __init__(self, database: Database):
        self.database = database
        self._accounts: set[str] = set()  # those that are known to have their row

    def add(
        self, jobs: Sequence[NewJob], waiting_limit: int, account_limit: int
    ) -> tuple[list[Job], bool]:
        try:
            return self._add(jobs, waiting_limit, account_limit)
        except sa.exc.IntegrityError:  # the same key at the same moment: the other was first
            return self._add(jobs, waiting_limit, account_limit)

    def _add(
        self, jobs: Sequence[NewJob], waiting_limit: int, account_limit: int
    ) -> tuple[list[Job], bool]:
        account = jobs[0].account
        with self.database.write() as connection:
            if known := _same_key(connection, jobs):
                return known, True
            waiting, mine = connection.execute(_WAITING, {"who": account}).one()
            for count, limit, whose in (
                (waiting, waiting_limit, "of all accounts"),
                (mine, account_limit, "of this account"),
            ):
                if count + len(jobs) > limit:
                    raise QueueFullError(limit, whose)
            now = self.database.clock()
            if account not in self._accounts:
                new = self.database.insert(accounts).on_conflict_do_nothing()
                connection.execute(new, {"name": account, "last_claim": 0.0})
            added = [self._insert(connection, job, now) for job in jobs]
        self._accounts.add(account)
        return added, False

    def _insert(self, connection: Connection, job: NewJob, now: float) -> Job:
        values = dict(vars(job))
        notes = values.pop("notes")
        values |= {
            "id": new_id(),
            "status": "starting",
            "logs": "".join(f"{note}\n" for note in notes),
            "step": 0,
            "steps": int(job.request.get("steps", 0)),
            "metrics": {},
            "created_at": now,
            "attempts": 0,
            "shared": False,
            "webhook_events": list(job.webhook_events),
        }
        return to_job(connection.execute(_ADD, values).one())

    def get(self, job_id: str, account: str | None = None) -> Job | None:
        if not is_id(job_id):
            return None
        query = _ONE if account is None else _ONE_OF_ACCOUNT
        with self.database.single() as connection:
            row = connection.execute(query, {"which": job_id, "who": account}).one_or_none()
        return None if row is None else to_job(row)

    def page(
        self, account: str, limit: int, before: int | None = None, batch: str | None = None
    ) -> list[Job]:
        query = sa.select(predictions).where(_p.account == account)
        if before is not None:
            query = query.where(_p.seq < before)
        if batch is not None and not is_id(batch):
            return []
        if batch is not None:
            query = query.where(_p.batch == batch)
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(_p.seq.desc()).limit(limit))
            return [to_job(row) for row in rows]

    def videos(
        self, account: str, limit: int, behind: int | None, *, newest_first: bool
    ) -> list[Job]:
        """An account's jobs behind seq `behind`, in either order."""
        query = sa.select(predictions).where(_p.account == account)
        if behind is not None:
            query = query.where(_p.seq < behind if newest_first else _p.seq > behind)
        order = _p.seq.desc() if newest_first else _p.seq
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(order).limit(limit))
            return [to_job(row) for row in rows]

    def recent(self, account: str, body_hash: str, seconds: float) -> Job | None:
        """The newest job of this account and body within the last `seconds`."""
        since = self.database.clock() - seconds
        query = (
            sa.select(predictions)
            .where(_p.account == account, _p.body_hash == body_hash, _p.created_at >= since)
            .order_by(_p.seq.desc())
            .limit(1)
        )
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else to_job(row)

    def claim(self, owner: str, models: Sequence[str], lease_seconds: float) -> Job | None:
        now = self.database.clock()
        with self.database.write() as connection:
            turn = {"now": now, "models": list(models)}
            found = connection.execute(NEXT, turn).one_or_none()
            if found is None:
                return None
            return self._claim(connection, found, Lease(owner, now, lease_seconds))

    def claim_beside(
        self, job: Job, owner: str, lease_seconds: float, most: int, fits: Fits
    ) -> list[Job]:
        now = self.database.clock()
        lease = Lease(owner, now, lease_seconds)
        claimed: list[Job] = []
        with self.database.write() as connection:
            for found in connection.execute(BESIDE, {"now": now, "model": job.model}).all():
                if len(claimed) == most:
                    break
                if found.version == job.version and fits(found.request):
                    claimed += filter(None, [self._claim(connection, found, lease)])
        return claimed

    def _claim(self, connection: Connection, found: Row[Any], lease: Lease) -> Job | None:
        """Take a row that is locked; None: its token runs as many as it may."""
        if not still_may(connection, found.token):
            return None
        job = to_job(connection.execute(TAKE, lease.of(found.seq)).one())
        connection.execute(CLAIMED, {"who": found.account, "now": lease.now})
        self._announce(connection, job, "start")
        return job

    def keep(self, job: Job, lease_seconds: float, lines: str = "", **progress: Any) -> bool:
        values = _said(lines, progress) | {"lease_until": self.database.clock() + lease_seconds}
        with self.database.write() as connection:
            result = connection.execute(sa.update(predictions).where(_is_ours(job)).values(values))
            if lines and result.rowcount:
                self._announce(connection, job, "logs")
            return result.rowcount == 1

    def finish(self, job: Job, outcome: Outcome, lines: str = "", **progress: Any) -> Job | None:
        status: Status = "succeeded" if outcome.error is None else "failed"
        now = self.database.clock()
        change = {
            "output_file": outcome.output_file,
            "error": outcome.error,
            "metrics": dict(outcome.metrics) | _times(job, now),
            **_said(lines, progress),
        }
        with self.database.write() as connection:
            ended = self._end(connection, _is_ours(job), status, change, now)
            if ended is None:
                return None
            if outcome.file is not None:
                files.add(self.database, connection, outcome.file)
            note_end(connection, ended, now)
            if lines:
                self._announce(connection, job, "logs")
            if status == "succeeded":
                remember(connection, ended, now)
                self._announce(connection, job, "output")
            return ended

    def give_back(self, job: Job, line: str, *, blame: bool) -> bool:
        change = _waiting_again(line) | ({} if blame else {"attempts": _p.attempts - 1})
        with self.database.write() as connection:
            return self._change(connection, _is_ours(job), change) is not None

    def cancel(self, job_id: str, account: str | None = None, error: str | None = None) -> bool:
        chosen = sa.and_(_p.id == job_id, _p.status.not_in(ENDED))
        if account is not None:
            chosen = sa.and_(chosen, _p.account == account)
        now = self.database.clock()
        with self.database.write() as connection:
            row = connection.execute(sa.select(predictions).where(chosen).with_for_update()).first()
            if row is None:
                return False
            change = {"error": error, "metrics": _times(to_job(row), now)}
            return self._end(connection, chosen, "canceled", change, now) is not None

    def sweep(self, max_attempts: int) -> list[Job]:
        now = self.database.clock()
        with self.database.single() as connection:  # most often nothing is to be done
            if connection.execute(STALE.limit(1), {"now": now}).first() is None:
                return []
        with self.database.write() as connection:
            stale = STALE.with_for_update(skip_locked=True)
            rows = connection.execute(stale, {"now": now}).all()
            return [self._swept(connection, to_job(row), max_attempts, now) for row in rows]

    def _swept(self, connection: Connection, job: Job, max_attempts: int, now: float) -> Job:
        one, times = _p.seq == job.seq, {"metrics": _times(job, now)}
        if job.deadline is not None and job.deadline <= now:
            error = {"error": "[deadline] it was not done in time"} | times
            ended = self._end(connection, one, "canceled", error, now)
        elif job.attempts >= max_attempts:
            text = f"[runner_died] its runner died {job.attempts} times; a smaller video may work"
            ended = self._end(connection, one, "failed", {"error": text} | times, now)
        else:
            line = "the runner gave no sign of life; it waits again"
            ended = self._change(connection, one, _waiting_again(line))
        assert ended is not None
        return ended

    def release(self, owner: str) -> int:
        mine = sa.and_(_p.status == "processing", _p.lease_owner.startswith(owner, autoescape=True))
        change = _waiting_again("the server was stopped; it waits again")
        with self.database.write() as connection:
            result = connection.execute(sa.update(predictions).where(mine).values(change))
            return result.rowcount

    def waiting(self) -> list[Waiting]:
        query = sa.select(
            _p.id, _p.seq, _p.account, _p.priority, _p.attempts, _p.estimate_seconds
        ).where(_p.status == "starting")
        with self.database.read() as connection:
            jobs = [Waiting(**row._mapping) for row in connection.execute(query)]
            last = {row.name: row.last_claim for row in connection.execute(sa.select(accounts))}
        return in_turn(jobs, last)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state that is no end."""
        query = sa.select(_p.status, sa.func.count()).where(_p.status.not_in(ENDED))
        with self.database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(_p.status))}

    def set_shared(self, job_id: str, account: str, shared: bool) -> bool:
        """Let anyone with its address see a job, or no longer; False: there is no such job."""
        if not is_id(job_id):
            return False
        mine = sa.and_(_p.id == job_id, _p.account == account)
        with self.database.write() as connection:
            result = connection.execute(sa.update(predictions).where(mine).values(shared=shared))
            return result.rowcount == 1

    def delete(self, job_id: str, account: str) -> bool:
        """Remove an ended job, its events and webhooks; False: it is not there, or not ended."""
        mine = sa.and_(_p.id == job_id, _p.account == account, _p.status.in_(ENDED))
        with self.database.write() as connection:
            return connection.execute(sa.delete(predictions).where(mine)).rowcount == 1

    def ended_before(self, moment: float, limit: int = 100) -> list[Job]:
        """Jobs that ended before `moment`, oldest first: what retention removes."""
        query = sa.select(predictions).where(_p.status.in_(ENDED), _p.completed_at < moment)
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(_p.seq).limit(limit))
            return [to_job(row) for row in rows]

    def running(self) -> list[Job]:
        """What is being made."""
        query = sa.select(predictions).where(_p.status == "processing").order_by(_p.seq)
        with self.database.read() as connection:
            return [to_job(row) for row in connection.execute(query)]

    def _change(self, connection: Connection, chosen: Any, values: Mapping[str, Any]) -> Job | None:
        change = sa.update(predictions).where(chosen).values(dict(values)).returning(predictions)
        row = connection.execute(change).one_or_none()
        return None if row is None else to_job(row)

    def _end(
        self,
        connection: Connection,
        chosen: Any,
        status: Status,
        values: Mapping[str, Any],
        now: float,
    ) -> Job | None:
        change: dict[str, Any] = {"status": status, "completed_at": now, **_NO_LEASE, **values}
        job = self._change(connection, chosen, change)
        if job is not None:
            note(connection, job, now)
            self._announce(connection, job, "completed")
        return job

    def _announce(self, connection: Connection, job: Job, event: WebhookEvent) -> None:
        """Put a webhook into the outbox, with the change that it tells of."""
        if job.webhook is None or event not in job.webhook_events:
            return
        now = self.database.clock()
        values = {
            "message": f"{job.id}-{event}",  # one of a kind waits to be sent, not one for each line
            "prediction": job.id,
            "event": event,
            "created_at": now,
            "attempts": 0,
            "next_at": now,
        }
        connection.execute(self.database.insert(outbox).on_conflict_do_nothing(), values)


def to_job(row: Row[Any]) -> Job:
    """A row of `predictions` as a value."""
    return Job(**row._mapping)


_NO_LEASE: Mapping[str, Any] = {"lease_token": None, "lease_owner": None, "lease_until": None}


def _waiting_again(line: str) -> dict[str, Any]:
    change = {"status": "starting", "started_at": None, "phase": None, "step": 0}
    return change | dict(_NO_LEASE) | {"logs": _appended(f"{line}\n")}


def _said(lines: str, progress: Mapping[str, Any]) -> dict[str, Any]:
    return dict(progress) | ({"logs": _appended(lines)} if lines else {})


def _appended(lines: str) -> Any:
    room = sa.func.length(_p.logs) < MAX_LOG_CHARS
    return sa.case((room, _p.logs.concat(lines)), else_=_p.logs)


def _is_ours(job: Job) -> Any:
    return sa.and_(_p.seq == job.seq, _p.status == "processing", _p.lease_token == job.lease_token)


def _times(job: Job, now: float) -> dict[str, float]:
    """Seconds of waiting, of running, and both; a job that never ran has not run."""
    times = {"total_time": now - job.created_at}
    if job.started_at is not None:
        times |= {
            "queue_time": job.started_at - job.created_at,
            "predict_time": now - job.started_at,
        }
    return {name: round(max(0.0, seconds), 6) for name, seconds in times.items()}


def _same_key(connection: Connection, jobs: Sequence[NewJob]) -> list[Job]:
    """The jobs that came with these keys before.

    Raises:
        IdempotencyError: with another body.
    """
    keys = [job.idempotency_key for job in jobs if job.idempotency_key is not None]
    if not keys:
        return []
    same = sa.and_(_p.account == jobs[0].account, _p.idempotency_key.in_(keys))
    known = [
        to_job(row)
        for row in connection.execute(sa.select(predictions).where(same).order_by(_p.seq))
    ]
    if known and {job.body_hash for job in known} != {jobs[0].body_hash}:
        raise IdempotencyError
    return known
