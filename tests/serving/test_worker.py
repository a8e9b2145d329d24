"""From the queue through a child process into the blobs, and what happens when something dies."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.serving.harness import FAKE, HELD, until
from tests.serving.jobs import MODEL, REQUEST, new_job

from mochi.core.errors import OutputError
from mochi.serving.blobs import FolderBlobs
from mochi.serving.bus import open_bus
from mochi.serving.jobs import Job
from mochi.serving.progress import bar
from mochi.serving.runner.process import ProcessRunner
from mochi.serving.runner.protocol import ModelEntry, RunnerDiedError
from mochi.serving.store.database import Database
from mochi.serving.store.files import Files
from mochi.serving.store.migrations import upgrade
from mochi.serving.store.queue import SqlStore
from mochi.serving.store.runtimes import Runtimes
from mochi.serving.worker import Shelf, Worker


def fake_runner(*words: str) -> ProcessRunner:
    return ProcessRunner("cpu", [ModelEntry(MODEL, "nano")], [*FAKE, *words])


@pytest.fixture
def shelf(database_url: str, tmp_path: Path) -> Iterator[Shelf]:
    database = Database.open(database_url)
    upgrade(database)
    bus = open_bus(database)
    (tmp_path / "work").mkdir()
    blobs = FolderBlobs(tmp_path / "blobs")
    yield Shelf(SqlStore(database), blobs, bus, tmp_path / "work", "here", (MODEL,))
    bus.close()
    database.close()


@contextmanager
def working(shelf: Shelf, runner: ProcessRunner | None = None) -> Iterator[Worker]:
    worker = Worker(runner or fake_runner(), shelf)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(0.0)


def add(shelf: Shelf, prompt: str, **request: Any) -> str:
    new = new_job(request=REQUEST | {"prompt": prompt} | request)
    (job,), _ = shelf.store.add([new], 100, 100)
    shelf.bus.ring("jobs")
    return job.id


def steps_told(shelf: Shelf, job_id: str) -> int:
    return [told.type for told in shelf.bus.since(job_id, 0)].count("step")


def ended(shelf: Shelf, job_id: str) -> Job:
    def look() -> Job | None:
        job = shelf.store.get(job_id)
        return job if job is not None and job.ended else None

    return until(look)


def test_a_job_becomes_a_video_with_its_story(shelf: Shelf) -> None:
    job_id = add(shelf, "a red circle")
    with working(shelf):
        job = ended(shelf, job_id)
    assert job.status == "succeeded"
    assert job.error is None
    file = Files(shelf.store.database).get(job.output_file or "")
    assert file is not None
    content = b"".join(shelf.blobs.read(file.id, 0, file.size))
    assert content == b"a video of a red circle"
    assert "100%|██████████| 4/4 [" in job.logs
    assert job.metrics["frames"] == 7
    assert job.metrics["predict_time"] > 0
    kinds = [told.type for told in shelf.bus.since(job_id, 0)]
    assert kinds.count("step") == 4
    assert kinds.count("preview") == 1  # only the latest is kept
    assert Runtimes(shelf.store.database).estimate(MODEL, REQUEST) is not None
    assert list(shelf.work.iterdir()) == []


def test_resuming_by_id_misses_and_repeats_nothing(shelf: Shelf) -> None:
    job_id = add(shelf, "a red circle")
    with working(shelf):
        ended(shelf, job_id)
    told = shelf.bus.since(job_id, 0)
    for index, event in enumerate(told):
        assert shelf.bus.since(job_id, event.id) == told[index + 1 :]


def test_a_failed_run_says_why_and_the_runner_goes_on(shelf: Shelf) -> None:
    bad, good = add(shelf, "fail please"), add(shelf, "a circle")
    with working(shelf) as worker:
        assert ended(shelf, bad).error == "[sampling] it went wrong"
        assert ended(shelf, good).status == "succeeded"
        assert worker.runner.state.state == "idle"


def test_a_dead_runner_is_replaced_and_its_job_runs_again(shelf: Shelf, tmp_path: Path) -> None:
    job_id = add(shelf, f"circle {tmp_path / 'go'}")
    with working(shelf) as worker:
        until(lambda: shelf.bus.since(job_id, 0))
        runner = worker.runner
        assert isinstance(runner, ProcessRunner)
        os.kill(runner.pid, signal.SIGKILL)
        until(lambda: "retry" in [told.type for told in shelf.bus.since(job_id, 0)])
        (tmp_path / "go").touch()
        job = ended(shelf, job_id)
    assert (job.status, job.attempts) == ("succeeded", 2)
    assert "signal 9" in job.logs


def test_a_job_that_always_kills_its_runner_does_not_block_the_queue(shelf: Shelf) -> None:
    bad, good = add(shelf, "crash it"), add(shelf, "a circle")
    with working(shelf):
        assert ended(shelf, good).status == "succeeded"
        job = ended(shelf, bad)
    assert (job.status, job.attempts) == ("failed", 3)
    assert (job.error or "").startswith("[runner_died] ")


def test_cancelling_stops_the_device_within_a_step(shelf: Shelf) -> None:
    job_id = add(shelf, HELD, steps=100)
    with working(shelf) as worker:
        until(lambda: steps_told(shelf, job_id))
        assert shelf.store.cancel(job_id)
        until(lambda: worker.runner.state.state == "idle")
        assert steps_told(shelf, job_id) == 1
        assert ended(shelf, add(shelf, "a circle")).status == "succeeded"
    assert ended(shelf, job_id).status == "canceled"
    assert len(shelf.blobs.keys()) == 1


def test_stopping_hands_the_job_back(shelf: Shelf) -> None:
    job_id = add(shelf, HELD)
    with working(shelf):
        until(lambda: shelf.bus.since(job_id, 0))
    job = shelf.store.get(job_id)
    assert job is not None
    assert (job.status, job.attempts) == ("starting", 0)


def test_stopping_waits_for_a_job_that_is_nearly_done(shelf: Shelf) -> None:
    job_id = add(shelf, "slow circle", steps=5)
    with working(shelf) as worker:
        until(lambda: shelf.bus.since(job_id, 0))
        worker.stop(30.0)
        job = shelf.store.get(job_id)
    assert job is not None
    assert job.status == "succeeded"


def test_a_runner_that_cannot_start_leaves_the_queue_waiting(shelf: Shelf) -> None:
    job_id = add(shelf, "a circle")
    with working(shelf, fake_runner("broken")) as worker:
        until(lambda: worker.runner.state.state == "failed")
        assert worker.runner.state.reason == "weights/dit.safetensors: is cut off"
    job = shelf.store.get(job_id)
    assert job is not None
    assert (job.status, job.attempts) == ("starting", 0)
    with working(shelf):
        assert ended(shelf, job_id).status == "succeeded"


def test_a_full_disk_loses_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = add(shelf, "a circle")
    full = [True, True]

    def put(key: str, path: Path) -> None:
        if full:
            full.pop()
            raise OutputError("output cannot be stored: No space left on device")
        keep(key, path)

    keep = shelf.blobs.put
    monkeypatch.setattr(shelf.blobs, "put", put)
    with working(shelf):
        job = ended(shelf, job_id)
    assert (job.status, job.attempts) == ("succeeded", 1)
    assert "No space left" in job.logs


def test_questions_are_answered_beside_a_run() -> None:
    runner = fake_runner()
    with pytest.raises(RunnerDiedError, match="not up"):
        runner.ask("tokens", model=MODEL, prompt="a b")
    runner.start()
    assert runner.ask("tokens", model=MODEL, prompt="a b")["tokens"] == 3
    description = runner.state.descriptions[MODEL]
    assert (description.version, description.defaults["steps"]) == ("ab" * 32, 4)
    runner.close()
    assert runner.state.state == "stopped"


def test_a_bar_is_one_that_tqdm_readers_know() -> None:
    line = bar({"step": 5, "steps": 16, "seconds_per_step": 0.25, "eta_seconds": 2.75})
    assert line == " 31%|███▏      | 5/16 [00:01<00:03,  4.00it/s]"
    assert "9.00s/it" in bar({"step": 1, "steps": 9, "seconds_per_step": 9.0, "eta_seconds": 4000})


def test_a_process_that_slept_keeps_what_it_was_making(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its leases have run out by the time that it wakes, and its housekeeping may wake first."""
    monkeypatch.setattr("mochi.serving.reporting._SECONDS_BETWEEN", 3600.0)
    job_id = add(shelf, f"circle {tmp_path / 'go'}")
    with working(shelf) as worker:
        until(lambda: worker.runner.state.state == "busy")
        with monkeypatch.context() as asleep:
            later = time.time() + 1000
            asleep.setattr(shelf.store.database, "clock", lambda: later)
            asleep.setattr("mochi.serving.reporting.time.time", lambda: later)
            worker.hold()
            assert shelf.store.sweep(3) == []
        (tmp_path / "go").touch()
        job = ended(shelf, job_id)
    assert (job.status, job.attempts) == ("succeeded", 1)
