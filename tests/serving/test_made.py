"""A video that is done is not made again, whoever dies between that and the end of its job."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.jobs import MODEL, REQUEST, new_job

from mochi.core.errors import OutputError
from mochi.serving.blobs import FolderBlobs
from mochi.serving.bus import open_bus
from mochi.serving.jobs import Job, Status, new_id
from mochi.serving.made import forget, found_in, leave_note, new_work, read_note, remove
from mochi.serving.shelf import Shelf, stored, take_up
from mochi.serving.store.database import Database
from mochi.serving.store.files import Files
from mochi.serving.store.migrations import upgrade
from mochi.serving.store.queue import SqlStore

FACTS = {"seconds": {"denoise": 1.0}, "prompt_tokens": 5}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    database = Database.open(f"sqlite:///{tmp_path / 'mochi.db'}")
    upgrade(database)
    bus = open_bus(database.unflushed())
    work, _ = new_work(tmp_path / "work")
    blobs = FolderBlobs(tmp_path / "blobs")
    yield Shelf(SqlStore(database), blobs, bus, work, "here", (MODEL,))
    bus.close()
    database.close()


def claimed(shelf: Shelf, owner: str = "here:cpu") -> Job:
    shelf.store.add([new_job(request=REQUEST)], 100, 100)
    job = shelf.store.claim(owner, [MODEL], 30.0)
    assert job is not None
    return job


def make(shelf: Shelf, job: Job) -> Path:
    path = shelf.work / f"{new_id()}.mp4"
    path.write_bytes(b"a video")
    leave_note(path, job.id, FACTS)
    return path


def status(shelf: Shelf, job: Job) -> Status:
    found = shelf.store.get(job.id)
    assert found is not None
    return found.status


def test_what_was_done_when_the_server_died_is_taken_up(shelf: Shelf, tmp_path: Path) -> None:
    done, undone = claimed(shelf), claimed(shelf)
    path = make(shelf, done)
    work, gone = new_work(tmp_path / "work")
    assert work != shelf.work
    take_up(shelf, found_in(gone))
    assert shelf.store.release("here:") == 1
    remove(gone)
    assert (status(shelf, done), status(shelf, undone)) == ("succeeded", "starting")
    (file,) = Files(shelf.store.database).of(done.id)
    assert file.id == path.stem
    assert b"".join(shelf.blobs.read(file.id, 0, file.size)) == b"a video"
    assert list((tmp_path / "work").iterdir()) == [work]


def test_it_may_have_been_stored_already(shelf: Shelf, tmp_path: Path) -> None:
    job = claimed(shelf)
    path = make(shelf, job)
    stored(shelf, job, path, FACTS)
    assert shelf.blobs.keys() == [path.stem]
    assert Files(shelf.store.database).of(job.id) == []
    _, gone = new_work(tmp_path / "work")
    take_up(shelf, found_in(gone))
    ended = shelf.store.get(job.id)
    assert ended is not None
    assert (ended.status, ended.output_file) == ("succeeded", path.stem)
    assert [(it.id, it.size) for it in Files(shelf.store.database).of(job.id)] == [(path.stem, 7)]
    assert shelf.blobs.keys() == [path.stem]


def test_anothers_job_and_one_that_ended_are_left_alone(shelf: Shelf, tmp_path: Path) -> None:
    theirs, cancelled = claimed(shelf, "elsewhere:cpu"), claimed(shelf)
    for job in (theirs, cancelled):
        make(shelf, job)
    shelf.store.cancel(cancelled.id)
    _, gone = new_work(tmp_path / "work")
    assert take_up(shelf, found_in(gone)) == 0
    assert (status(shelf, theirs), status(shelf, cancelled)) == ("processing", "canceled")
    assert shelf.blobs.keys() == []


def test_a_runner_that_outlives_its_server_can_no_longer_say_that_it_is_done(
    tmp_path: Path,
) -> None:
    work, _ = new_work(tmp_path)
    path = work / "x.mp4"
    stream = path.open("wb")
    _, gone = new_work(tmp_path)
    assert found_in(gone) == []
    with stream:
        stream.write(b"late")
    with pytest.raises(OutputError, match="cannot be stored"):
        leave_note(path, "job", FACTS)
    with pytest.raises(OSError, match="No such file"):
        os.replace(path, path.with_name("y.mp4"))
    assert found_in(gone) == []


def test_a_start_that_was_cut_off_is_begun_again(tmp_path: Path) -> None:
    first, _ = new_work(tmp_path)
    leave_note(first / "x.mp4", "job", FACTS)
    _, gone = new_work(tmp_path)
    _, again = new_work(tmp_path)  # the second start died before it took anything up
    assert {it.job_id for it in found_in(again)} == {"job"}
    assert set(gone) < set(again)


def test_notes_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    assert read_note(path) is None
    leave_note(path, "job", FACTS)
    found = read_note(path)
    assert found is not None
    assert (found.job_id, found.path, found.facts) == ("job", path, FACTS)
    (tmp_path / ".x.mp4.part").touch()
    (tmp_path / "other.mp4").touch()
    forget(path)
    assert [it.name for it in tmp_path.iterdir()] == ["other.mp4"]
