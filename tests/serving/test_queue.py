"""The queue keeps its promises, the same in SQLite and in PostgreSQL."""

import threading
from collections import Counter

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from tests.serving.conftest import BOTH, Clock
from tests.serving.jobs import MODEL, new_job

from mochi.core.errors import RequestError
from mochi.serving.jobs import IdempotencyError, Job, Outcome, QueueFullError, new_id
from mochi.serving.store.database import Database, DatabaseError
from mochi.serving.store.migrations import upgrade
from mochi.serving.store.queue import MAX_LOG_CHARS, SqlStore
from mochi.serving.store.tables import metadata, outbox

both = pytest.mark.parametrize("database_url", BOTH, indirect=True)
LEASE = 30.0


@pytest.fixture
def store(database: Database) -> SqlStore:
    return SqlStore(database)


def add(store: SqlStore, **changes: object) -> Job:
    (job,), _ = store.add([new_job(**changes)], 100, 100)
    return job


def claim(store: SqlStore) -> Job:
    job = store.claim("host:1", [MODEL], LEASE)
    assert job is not None
    return job


@both
def test_migrations_build_what_the_tables_say(database: Database) -> None:
    upgrade(database)  # again: nothing happens
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []


@both
def test_a_job_from_its_beginning_to_its_end(store: SqlStore, clock: Clock) -> None:
    new = add(store, notes=["seed 1"], deadline=clock() + 60)
    assert (new.status, new.logs, new.steps, new.attempts) == ("starting", "seed 1\n", 4, 0)
    assert len(new.id) == 26
    clock.now += 2
    job = claim(store)
    assert (job.id, job.status, job.attempts) == (new.id, "processing", 1)
    assert store.claim("host:2", [MODEL], LEASE) is None
    clock.now += 3
    assert store.keep(job, LEASE, "1/4\n", phase="denoise", step=1)
    done = store.finish(job, Outcome("f" * 26, {"frames": 7}))
    assert done is not None
    assert done == store.get(job.id)
    assert (done.status, done.output_file, done.step) == ("succeeded", "f" * 26, 1)
    assert done.logs == "seed 1\n1/4\n"
    assert done.metrics == {
        "frames": 7,
        "queue_time": 2.0,
        "predict_time": 3.0,
        "total_time": 5.0,
    }
    assert done.lease_token is None


@both
def test_a_lease_that_ran_out_is_worth_nothing(store: SqlStore, clock: Clock) -> None:
    add(store)
    lost = claim(store)
    clock.now += LEASE + 1
    (swept,) = store.sweep(3)
    assert swept.status == "starting"
    assert not store.keep(lost, LEASE)
    assert store.finish(lost, Outcome("f" * 26)) is None
    assert not store.give_back(lost, "late", blame=True)
    again = claim(store)
    assert again.attempts == 2
    assert store.finish(again, Outcome("e" * 26)) is not None
    assert store.finish(again, Outcome("d" * 26)) is None
    assert store.get(lost.id).output_file == "e" * 26  # type: ignore[union-attr]


@both
def test_a_job_that_kills_its_runners_fails_in_the_end(store: SqlStore, clock: Clock) -> None:
    job = add(store)
    for _ in range(3):
        claim(store)
        clock.now += LEASE + 1
        (swept,) = store.sweep(3)
    assert swept.status == "failed"
    assert (swept.error or "").startswith("[runner_died]")
    assert store.claim("host:1", [MODEL], LEASE) is None
    assert store.get(job.id) == swept


@both
def test_a_job_handed_back_is_not_blamed(store: SqlStore) -> None:
    add(store)
    assert store.give_back(claim(store), "the server stops", blame=False)
    job = claim(store)
    assert job.attempts == 1
    assert "the server stops" in job.logs


@both
def test_leases_of_a_dead_process_are_released(store: SqlStore) -> None:
    add(store)
    add(store)
    store.claim("host:1:gpu0", [MODEL], LEASE)
    store.claim("host_1:gpu0", [MODEL], LEASE)
    assert store.release("host:1:") == 1
    assert len(store.running()) == 1


@both
def test_cancelling_ends_a_job_at_once_and_once(store: SqlStore) -> None:
    waits, runs = add(store), add(store)
    claimed = claim(store)
    assert claimed.id == waits.id
    assert store.cancel(waits.id, "alice")
    assert store.cancel(runs.id, "alice")
    assert not store.cancel(runs.id, "alice")
    assert not store.keep(claimed, LEASE)
    assert store.finish(claimed, Outcome("f" * 26)) is None
    assert [job.status for job in store.page("alice", 10)] == ["canceled", "canceled"]


@both
def test_another_account_cannot_touch_a_job(store: SqlStore) -> None:
    job = add(store)
    assert store.get(job.id, "bob") is None
    assert not store.cancel(job.id, "bob")
    assert not store.set_shared(job.id, "bob", True)
    assert store.page("bob", 10) == []
    store.cancel(job.id)
    assert not store.delete(job.id, "bob")
    assert store.delete(job.id, "alice")


@both
def test_a_deadline_ends_what_waits_and_what_runs(store: SqlStore, clock: Clock) -> None:
    runs = add(store, deadline=clock() + 10)
    claimed = claim(store)
    waits = add(store, deadline=clock() + 10)
    clock.now += 11
    assert store.claim("host:1", [MODEL], LEASE) is None
    assert {job.id for job in store.sweep(3)} == {runs.id, waits.id}
    assert not store.keep(claimed, LEASE)
    ended = store.page("alice", 10)
    assert {job.status for job in ended} == {"canceled"}
    assert all((job.error or "").startswith("[deadline]") for job in ended)


@both
def test_accounts_take_turns_and_priority_goes_first(store: SqlStore, clock: Clock) -> None:
    for account in ("alice", "alice", "alice", "bob", "carol", "bob"):
        add(store, account=account)
    urgent = add(store, account="alice", priority=1)
    foretold = [job.id for job in store.waiting()]
    taken = []
    for _ in range(7):
        clock.now += 1
        taken.append(claim(store))
    assert taken[0].id == urgent.id
    assert [job.account for job in taken[1:]] == ["bob", "carol", "alice", "bob", "alice", "alice"]
    assert [job.id for job in taken] == foretold


@both
def test_a_runner_takes_only_models_that_it_has(store: SqlStore) -> None:
    add(store)
    assert store.claim("host:1", ["other/model"], LEASE) is None


@both
def test_a_key_makes_a_repeat_the_same_job(store: SqlStore) -> None:
    fields = {"idempotency_key": "k", "body_hash": "h"}
    job = add(store, **fields)
    again, known = store.add([new_job(**fields)], 100, 100)
    assert known
    assert again == [job]
    with pytest.raises(IdempotencyError):
        add(store, idempotency_key="k", body_hash="other")
    assert add(store, account="bob", **fields).id != job.id
    assert store.recent("alice", "h", 60) == job
    assert store.recent("alice", "other", 60) is None


@both
def test_the_same_key_at_the_same_moment_is_one_job(store: SqlStore) -> None:
    found: list[str] = []

    def send() -> None:
        jobs, _ = store.add([new_job(idempotency_key="k", body_hash="h")], 100, 100)
        found.append(jobs[0].id)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@both
def test_a_full_queue_takes_all_of_a_batch_or_nothing(store: SqlStore) -> None:
    store.add([new_job()] * 3, 4, 4)
    with pytest.raises(QueueFullError, match="all accounts"):
        store.add([new_job(account="bob")] * 2, 4, 4)
    with pytest.raises(QueueFullError, match="this account"):
        store.add([new_job()] * 2, 100, 4)
    assert len(store.waiting()) == 3


@both
def test_pages_are_cut_by_age(store: SqlStore) -> None:
    batch = new_id()
    jobs = [add(store, batch=batch if number % 2 else None) for number in range(5)]
    first = store.page("alice", 2)
    assert [job.seq for job in first] == [jobs[4].seq, jobs[3].seq]
    assert [job.seq for job in store.page("alice", 9, first[-1].seq)] == [
        job.seq for job in jobs[2::-1]
    ]
    assert [job.id for job in store.page("alice", 9, batch=batch)] == [jobs[3].id, jobs[1].id]


@both
def test_logs_stop_growing(store: SqlStore) -> None:
    add(store)
    job = claim(store)
    for _ in range(5):
        store.keep(job, LEASE, "x" * (MAX_LOG_CHARS // 2))
    assert len(store.get(job.id).logs) == MAX_LOG_CHARS  # type: ignore[union-attr]


@both
def test_webhooks_are_put_out_with_the_change(store: SqlStore) -> None:
    add(store, webhook="https://example.org/", webhook_events=["start", "output", "completed"])
    add(store, webhook="https://example.org/", webhook_events=["completed"])
    for _ in range(2):
        job = claim(store)
        store.keep(job, LEASE, "a line\n")
        store.finish(job, Outcome("f" * 26))
    with store.database.read() as connection:
        put = [row.event for row in connection.execute(sa.select(outbox).order_by(outbox.c.id))]
    assert Counter(put) == {"start": 1, "output": 1, "completed": 2}


@both
def test_many_runners_share_a_queue_without_meeting(store: SqlStore) -> None:
    jobs = {add(store, account=f"account{number % 3}").id for number in range(40)}
    finished: list[str] = []

    def run(name: int) -> None:
        while job := store.claim(f"host:{name}", [MODEL], LEASE):
            assert store.keep(job, LEASE, step=1)
            assert store.finish(job, Outcome("f" * 26)) is not None
            finished.append(job.id)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A runner may see nothing while another has the last ones locked: what is left is run here.
    run(9)
    assert Counter(finished) == dict.fromkeys(jobs, 1)


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(RequestError, match="neither SQLite nor PostgreSQL"):
        Database.open("mysql://host/name")
    with pytest.raises(RequestError, match="no database URL"):
        Database.open("no url")


def test_a_database_that_is_not_there_is_one_clear_error() -> None:
    database = Database.open("postgresql://mochi@127.0.0.1:1/none")
    with pytest.raises(DatabaseError, match="does not answer"), database.read() as connection:
        connection.execute(sa.select(1))


def test_ids_differ() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000
