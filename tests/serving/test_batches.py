"""Jobs that fit are made in one batch, and each has its own life in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.serving.conftest import BOTH
from tests.serving.harness import FAKE, HELD, Running, running, until
from tests.serving.jobs import MODEL, REQUEST, new_job

from mochi.serving.batches import fits_beside, passes_tokens
from mochi.serving.jobs import Job
from mochi.serving.runner.process import ProcessRunner
from mochi.serving.store.database import Database
from mochi.serving.store.queue import SqlStore
from mochi.serving.store.tokens import Allowance, Tokens


def together(device: str, models: Any) -> ProcessRunner:
    return ProcessRunner(device, models, [*FAKE, "together"])


def request(**changes: Any) -> dict[str, Any]:
    return {**REQUEST, **changes}


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({"prompt": "another", "seed": 9, "negative_prompt": "x", "fps": 5}, True),
        ({"steps": 5}, False),
        ({"width": 48}, False),
        ({"loras": [["ink", 1.0]]}, False),
        ({"step_cache": "tea"}, False),
        ({"solver": "of an older version"}, False),
    ],
)
def test_what_fits(change: dict[str, Any], fits: bool) -> None:
    assert fits_beside(request(), request(**change)) is fits
    worn = {"loras": [["ink", 1.0]]}
    assert fits_beside(request(**worn), request(**worn, seed=4))


def test_tokens_of_both_passes() -> None:
    assert passes_tokens(request(frames=163, height=480, width=848)) == 2 * 44_520


def put(store: SqlStore, **changes: Any) -> Job:
    made = request(**{name: changes.pop(name) for name in list(changes) if name in REQUEST})
    (job,), _ = store.add([new_job(request=made, **changes)], 100, 100)
    return job


def beside(store: SqlStore, job: Job, most: int) -> list[str]:
    def fits(other: Any) -> bool:
        return fits_beside(job.request, other)

    return [it.id for it in store.claim_beside(job, "a", 60.0, most, fits)]


@pytest.mark.parametrize("database_url", BOTH, indirect=True)
def test_those_that_fit_are_taken_in_their_turn(database: Database) -> None:
    store = SqlStore(database)
    put(store)
    other, urgent, late = put(store, steps=9), put(store, priority=3, seed=2), put(store, seed=3)
    put(store, model="another/model")
    first = store.claim("a", [MODEL], 60.0)
    assert first is not None
    assert first.id == urgent.id
    ids = beside(store, first, 2)
    assert len(ids) == 2
    assert late.id in ids
    assert other.id not in ids
    assert beside(store, first, 2) == []
    jobs = [store.get(it) for it in ids]
    assert {(job.status, job.lease_owner, job.attempts) for job in jobs} == {("processing", "a", 1)}
    assert len({job.lease_token for job in jobs}) == 2


@pytest.mark.parametrize("database_url", BOTH, indirect=True)
def test_a_batch_is_no_way_around_a_tokens_limit(database: Database) -> None:
    store, tokens = SqlStore(database), Tokens(database)
    who = tokens.find(tokens.create(["run"], "alice", Allowance(concurrency=2)))
    assert who is not None
    for seed in range(5):
        put(store, seed=seed, token=who.token)
    first = store.claim("a", [MODEL], 60.0)
    assert first is not None
    assert len(beside(store, first, 4)) == 1


def waiting(server: Running, count: int, prompt: str, **more: Any) -> list[str]:
    return [server.create(prompt, seed=seed, **more)["id"] for seed in range(count)]


def behind_another(server: Running, enqueue: Callable[[], list[str]]) -> list[str]:
    first = server.create(HELD)["id"]
    until(lambda: server.get(first)["status"] == "processing")
    ids = enqueue()
    server.http.post(f"/v1/predictions/{first}/cancel")
    return ids


def test_what_waits_is_made_in_batches(tmp_path: Path) -> None:
    with running(tmp_path, together, together=3) as server:
        ids = behind_another(
            server,
            lambda: [
                *waiting(server, 5, "a circle"),
                *waiting(server, 1, "a circle", num_frames=7),
            ],
        )
        jobs = [server.ended(job_id) for job_id in ids]
        assert {job["status"] for job in jobs} == {"succeeded"}
        sizes = [job["metrics"].get("together", 1) for job in jobs]
        assert sorted(sizes) == [1, 2, 2, 3, 3, 3]
        assert len(server.services.blobs.keys()) == 6
        assert server.services.runtimes.all()


def test_one_is_cancelled_and_one_fails(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with running(tmp_path, together, together=4) as server:
        first, second, third, fourth = behind_another(
            server,
            lambda: [
                *waiting(server, 1, f"circle {go}"),
                *waiting(server, 1, "fail circle"),
                *waiting(server, 1, HELD),
                *waiting(server, 1, "a square"),
            ],
        )
        until(lambda: server.get(third)["status"] == "processing")
        server.http.post(f"/v1/predictions/{third}/cancel")
        go.touch()
        found = [server.ended(job_id)["status"] for job_id in (first, second, third, fourth)]
        assert found == ["succeeded", "failed", "canceled", "succeeded"]
        assert len(server.services.blobs.keys()) == 2


def test_a_runner_that_dies_takes_nobody_along(tmp_path: Path) -> None:
    with running(tmp_path, together, together=2, max_attempts=2) as server:
        bad, good = behind_another(
            server,
            lambda: [*waiting(server, 1, "crash circle"), *waiting(server, 1, "a circle")],
        )
        assert server.ended(bad)["status"] == "failed"
        assert server.ended(good)["status"] == "succeeded"
