"""The queue against a simple picture of it, in every order that hypothesis thinks of."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from tests.serving.conftest import Clock, needs_postgresql
from tests.serving.jobs import MODEL, new_job

from mochi.serving.jobs import ENDED, IdempotencyError, Job, Outcome, QueueFullError
from mochi.serving.store.database import Database
from mochi.serving.store.queue import SqlStore
from mochi.serving.store.tables import metadata

LEASE, ATTEMPTS = 10.0, 3


class QueueMachine(RuleBasedStateMachine):
    """No job is lost, none is completed twice, none is stuck."""

    leases = Bundle("leases")

    def __init__(self, url: str | None = None) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        url = url or f"sqlite:///{Path(self.folder.name) / 'mochi.db'}"
        self.database = Database.open(url, self.clock, durable=False)
        metadata.create_all(self.database.engine)  # quicker than migrations, which are equal
        with self.database.write() as connection:  # what the example before left
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        self.keys: dict[tuple[str, str], str] = {}  # account and key -> job id
        self.store = SqlStore(self.database)
        self.status: dict[str, str] = {}
        self.live: dict[str, str | None] = {}  # job id -> the token that may finish it
        self.deadlines: dict[str, float | None] = {}

    def teardown(self) -> None:
        self.drain()
        self.database.close()
        self.folder.cleanup()

    def drain(self) -> None:
        """Whatever happened before, an honest runner brings every job to its end."""
        self.clock.now += LEASE + 1
        self.store.sweep(ATTEMPTS)
        while job := self.store.claim("last", [MODEL], LEASE):
            assert self.store.finish(job, Outcome("f" * 26)) is not None
        jobs = [job for account in "ab" for job in self.store.page(account, 1000)]
        assert {job.id for job in jobs} == set(self.status)
        assert all(job.status in ENDED for job in jobs)

    @rule(
        account=st.sampled_from("ab"), priority=st.integers(0, 1), patience=st.none() | st.just(15)
    )
    def add(self, account: str, priority: int, patience: int | None) -> None:
        deadline = None if patience is None else self.clock() + patience
        new = new_job(account=account, priority=priority, deadline=deadline)
        (job,), _ = self.store.add([new], 100, 100)
        self.status[job.id], self.live[job.id], self.deadlines[job.id] = "starting", None, deadline

    @rule(account=st.sampled_from("ab"), key=st.sampled_from("xy"), body=st.sampled_from("12"))
    def add_with_a_key(self, account: str, key: str, body: str) -> None:
        new = new_job(account=account, idempotency_key=key, body_hash=body)
        known = self.keys.get((account, key))
        try:
            (job,), was_known = self.store.add([new], 100, 100)
        except IdempotencyError:
            assert known is not None
            before = self.store.get(known)
            assert before is not None
            assert before.body_hash != body
            return
        assert was_known == (known is not None)
        if known is None:
            self.keys[account, key] = job.id
            self.status[job.id], self.live[job.id], self.deadlines[job.id] = "starting", None, None
        else:
            assert job.id == known

    @rule(count=st.integers(1, 3), room=st.integers(0, 2))
    def add_where_there_is_no_room(self, count: int, room: int) -> None:
        """All or none."""
        waiting = sum(status == "starting" for status in self.status.values())
        new = [new_job(account="a") for _ in range(count)]
        if count > room:
            with pytest.raises(QueueFullError):
                self.store.add(new, waiting + room, 1000)

    @rule(target=leases, owner=st.sampled_from(["host:1:0", "host:2:0"]))
    def claim(self, owner: str) -> Job:
        order = [it.id for it in self.store.waiting()]
        job = self.store.claim(owner, [MODEL], LEASE)
        waiting = [
            name
            for name, status in self.status.items()
            if status == "starting" and (self.deadlines[name] or self.clock() + 1) > self.clock()
        ]
        if job is None:
            assert not waiting
            return multiple()
        assert job.id == next(name for name in order if name in waiting)  # as was foretold
        self.status[job.id], self.live[job.id] = "processing", job.lease_token
        return job

    def is_live(self, job: Job) -> bool:
        return self.live[job.id] == job.lease_token

    @rule(job=leases, step=st.integers(0, 4))
    def keep(self, job: Job, step: int) -> None:
        assert self.store.keep(job, LEASE, "line\n", step=step) == self.is_live(job)

    @rule(job=leases, error=st.none() | st.just("[internal] it broke"))
    def finish(self, job: Job, error: str | None) -> None:
        live = self.is_live(job)
        done = self.store.finish(job, Outcome(None if error else "f" * 26, error=error))
        assert (done is not None) == live
        if live:
            self.status[job.id], self.live[job.id] = "failed" if error else "succeeded", None

    @rule(job=leases, blame=st.booleans())
    def give_back(self, job: Job, blame: bool) -> None:
        live = self.is_live(job)
        assert self.store.give_back(job, "back", blame=blame) == live
        if live:
            self.status[job.id], self.live[job.id] = "starting", None

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.status:
            number = data.draw(st.integers(0, len(self.status) - 1))  # ids are random, ages are not
            name = list(self.status)[number]
            assert self.store.cancel(name) == (self.status[name] not in ENDED)
            if self.status[name] not in ENDED:
                self.status[name], self.live[name] = "canceled", None

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def sweep(self) -> None:
        for job in self.store.sweep(ATTEMPTS):
            assert self.status[job.id] not in ENDED
            self.status[job.id], self.live[job.id] = job.status, None

    @rule(owner=st.sampled_from(["host:1:", "host:2:"]))
    def server_dies_and_starts_again(self, owner: str) -> None:
        gone = {job.id for job in self.store.running() if (job.lease_owner or "").startswith(owner)}
        assert self.store.release(owner) == len(gone)
        for name in gone:
            self.status[name], self.live[name] = "starting", None

    @invariant()
    def rows_are_what_we_think(self) -> None:
        jobs = [job for account in "ab" for job in self.store.page(account, 1000)]
        assert {job.id: job.status for job in jobs} == self.status
        for job in jobs:
            assert (job.lease_token is not None) == (job.status == "processing")
            assert job.lease_token == self.live[job.id]
            assert (job.completed_at is not None) == (job.status in ENDED)
            assert (job.output_file is not None) == (job.status == "succeeded")
        waiting = {job.id for job in jobs if job.status == "starting"}
        assert {job.id for job in self.store.waiting()} == waiting


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=15, stateful_step_count=30)


@pytest.mark.long
@needs_postgresql
def test_the_queue_in_postgresql_is_as_simple(postgresql: Callable[[], str]) -> None:
    url = postgresql()
    many = settings(
        max_examples=100, stateful_step_count=40, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(lambda: QueueMachine(url), settings=many)


@pytest.mark.long
def test_the_queue_is_as_simple_in_many_orders() -> None:
    many = settings(
        max_examples=300, stateful_step_count=60, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(QueueMachine, settings=many)
