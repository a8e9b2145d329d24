"""What a token may take: runs at once, seconds of a day, a place before others."""

import threading
from pathlib import Path

import pytest
from tests.serving.conftest import BOTH, Clock
from tests.serving.harness import running, until
from tests.serving.jobs import MODEL, new_job

from mochi.core.errors import RequestError
from mochi.serving.jobs import Job, Outcome
from mochi.serving.store.database import Database
from mochi.serving.store.queue import SqlStore
from mochi.serving.store.tokens import Allowance, Identity, Tokens
from mochi.serving.store.usage import Usage


def holder(database: Database, **allowance: float) -> Identity:
    tokens = Tokens(database)
    found = tokens.find(tokens.create(["run"], "alice", Allowance(**allowance)))
    assert found is not None
    return found


def put(store: SqlStore, who: Identity, **changes: object) -> Job:
    (job,), _ = store.add([new_job(token=who.token, **changes)], 100, 100)
    return job


def claim(store: SqlStore) -> Job | None:
    return store.claim("a", [MODEL], 60.0)


@pytest.mark.parametrize("database_url", BOTH, indirect=True)
def test_no_more_run_at_once_than_may(database: Database) -> None:
    store, who = SqlStore(database), holder(database, concurrency=2)
    first = put(store, who)
    for _ in range(3):
        put(store, who)
    other = put(store, holder(database))
    claimed = [claim(store) for _ in range(4)]
    assert [job and job.id == other.id for job in claimed] == [False, False, True, None]
    assert claimed[0] is not None
    assert claimed[0].id == first.id
    store.finish(claimed[0], Outcome())
    assert claim(store) is not None
    assert claim(store) is None


@pytest.mark.parametrize("database_url", BOTH, indirect=True)
def test_many_servers_hold_to_it_together(database: Database) -> None:
    store, who = SqlStore(database), holder(database, concurrency=3)
    for _ in range(12):
        put(store, who)
    got: list[Job | None] = []
    threads = [threading.Thread(target=lambda: got.append(claim(store))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len([job for job in got if job is not None]) <= 3
    while claim(store) is not None:
        pass
    assert len(store.running()) == 3


@pytest.mark.parametrize("database_url", BOTH, indirect=True)
def test_seconds_are_counted_whatever_becomes_of_the_run(database: Database, clock: Clock) -> None:
    store, usage, who = SqlStore(database), Usage(database), holder(database)
    assert who.token is not None
    for outcome in (Outcome(), Outcome(error="[sampling] no")):
        put(store, who, estimate_seconds=7.0)
        assert usage.promised(who.token) == 7.0
        job = claim(store)
        assert job is not None
        clock.now += 10
        assert usage.of(who.token) >= 10
        store.finish(job, outcome)
    assert usage.promised(who.token) == 0
    job = put(store, who)
    claim(store)
    clock.now += 5
    store.cancel(job.id)
    store.delete(job.id, "alice")
    put(store, who)
    assert usage.of(who.token) == 25
    clock.now += 23 * 3600
    usage.forget()
    assert usage.of(who.token) == 25
    clock.now += 3600
    assert usage.of(who.token) == 0


def test_priority_goes_first(database: Database) -> None:
    store = SqlStore(database)
    late, early = put(store, holder(database)), put(store, holder(database), priority=5)
    assert claim(store).id == early.id
    assert claim(store).id == late.id


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"seconds_per_day": 0.0}, {"priority": 101}])
def test_what_is_no_allowance(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        Allowance(**wrong)


def test_over_the_wire(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        tokens = server.services.tokens
        alice = server.client(tokens.create(["run"], "alice", Allowance(1, 0.05, 3)))
        body = {"input": {"prompt": "a circle", "seed": 1}}
        made = alice.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()
        assert made["status"] == "succeeded"
        told = alice.get("/v1/account").json()["allowance"]
        assert told["seconds_used"] > 0
        assert (told["concurrency"], told["seconds_per_day"], told["priority"]) == (1, 0.05, 3)

        def refused() -> bool:
            return alice.post("/v1/predictions", json=body).status_code == 429

        until(refused)
        answer = alice.post("/v1/predictions", json=body)
        assert answer.json()["title"] == "Allowance used"
        assert int(answer.headers["retry-after"]) > 0
        bob = server.client(tokens.create(["run"], "bob"))
        assert bob.post("/v1/predictions", json=body).status_code == 202
