import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mochi.core.errors import OutputError
from mochi.video import output
from mochi.video.output import claim

SOURCE = Path(output.__file__).parents[2]

HOLDER = """
import sys, time
from mochi.video.output import claim
with claim(sys.argv[1]) as part:
    part.write_text("half")
    print("held", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def fail_after_writing(path: Path, **options: bool) -> None:
    with claim(path, **options) as part:
        (part / "x" if part.is_dir() else part).write_text("half")
        raise KeyError


def frame_folder(path: Path) -> Path:
    path.mkdir()
    (path / "frame_00000.png").write_text("picture")
    (path / "request.json").write_text('{"mochi_request": null}')
    return path


def test_the_name_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    with claim(target) as part:
        part.write_text("all of it")
        assert part.parent == tmp_path  # the same disk, so that the rename is one step
        assert not target.exists()
    assert target.read_text() == "all of it"
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("reason", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("folder", [False, True])
def test_nothing_is_left_when_the_work_fails(
    tmp_path: Path, reason: type[BaseException], folder: bool
) -> None:
    def work() -> None:
        with claim(tmp_path / "a", folder=folder) as part:
            (part / "x" if folder else part).write_text("half")
            raise reason

    with pytest.raises(reason):
        work()
    assert names(tmp_path) == []


def test_an_existing_file_is_kept_without_overwrite(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("old")
    with pytest.raises(OutputError, match=r"exists already.*overwrite"), claim(tmp_path / "a.mp4"):
        pytest.fail("the work must not start")
    assert (tmp_path / "a.mp4").read_text() == "old"
    assert names(tmp_path) == ["a.mp4"]


def test_overwriting_replaces_at_the_end_and_only_on_success(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.write_text("old")
    with pytest.raises(KeyError):
        fail_after_writing(target, overwrite=True)
    assert target.read_text() == "old"
    with claim(target, overwrite=True) as part:
        part.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.mp4"]


def test_a_file_that_appears_during_the_work_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    with pytest.raises(OutputError, match="exists already"), claim(target):
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_second_run_of_the_same_name_is_refused(tmp_path: Path, folder: bool) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with claim(tmp_path / "a", folder=folder) as part:
        for same in (tmp_path / "a", tmp_path / "link" / "a", tmp_path / "x" / ".." / "a"):
            with pytest.raises(OutputError, match="another run is writing it"):
                claim(same, True, folder=folder).__enter__()
        with claim(tmp_path / "b", folder=folder):
            pass
        assert part.exists()
    assert names(tmp_path) == ["a", "b", "link"]


def test_another_process_is_refused_and_its_death_frees_the_name(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(target)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(SOURCE)},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="another run is writing it"):
            claim(target).__enter__()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert names(tmp_path) == [".a.mp4.mochi-part"]  # the dead cannot tidy up
    with claim(target) as part:
        assert part.read_text() == ""
        part.write_text("new")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.mp4"]


def test_a_killed_run_of_a_folder_is_taken_over(tmp_path: Path) -> None:
    stale = tmp_path / ".frames.mochi-part"
    (stale / "deep").mkdir(parents=True)
    (stale / "frame_00000.png").write_text("half")
    with claim(tmp_path / "frames", folder=True) as part:
        assert names(part) == []
    assert names(tmp_path) == ["frames"]


def test_a_run_that_ends_between_opening_and_locking_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has become the result: locking that would be locking the wrong file."""
    target = tmp_path / "a.mp4"
    lock, calls = fcntl.flock, []

    def late(descriptor: int, flags: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            os.replace(tmp_path / ".a.mp4.mochi-part", target)
            target.write_text("theirs")
        lock(descriptor, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    with claim(target, overwrite=True) as part:
        part.write_text("ours")
        assert target.read_text() == "theirs"
    assert len(calls) == 2
    assert target.read_text() == "ours"


def test_the_next_run_may_start_at_the_moment_of_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleaning up after our own success must not remove the part file of the next run."""
    publish = output._publish

    def then_another(*args: object) -> None:
        publish(*args)  # type: ignore[arg-type]
        (tmp_path / ".a.mp4.mochi-part").write_text("the next run's")

    monkeypatch.setattr(output, "_publish", then_another)
    with claim(tmp_path / "a.mp4"):
        pass
    assert names(tmp_path) == [".a.mp4.mochi-part", "a.mp4"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EACCES, "folder cannot be written to"),
        (errno.EROFS, "disk is read-only"),
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_refusal_of_the_disk_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for function in ("open", "fsync", "replace"):  # at the start, and at the end
        with monkeypatch.context() as patched:
            patched.setattr(output.os, function, refuse)
            with pytest.raises(OutputError, match=said) as caught, claim(tmp_path / "a.mp4"):
                pass
        assert "a.mp4" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written to"), claim(closed / "a.mp4"):
        pytest.fail("the work must not start")


def test_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="cannot be written to"), claim(tmp_path / "a.mp4"):
        pytest.fail("the work must not start")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none/a.mp4", "does not exist"),
        ("file/a.mp4", "does not exist"),
        ("full", "is a folder"),
        ("loop/a.mp4", "loop|does not exist"),
        ("a" * 300, "too long"),
        ("a" * 250, "too long"),  # the part's name is longer than the result's
    ],
)
def test_names_that_cannot_be_written(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = names(tmp_path)
    with pytest.raises(OutputError, match=said):
        claim(tmp_path / name, overwrite=True).__enter__()
    assert names(tmp_path) == before


def test_a_device_is_never_replaced() -> None:
    with pytest.raises(OutputError, match="no regular file"):
        claim("/dev/null", overwrite=True).__enter__()


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.mp4").write_text("old")
    (tmp_path / "link.mp4").symlink_to("real.mp4")
    with claim(tmp_path / "link.mp4", overwrite=True) as part:
        part.write_text("new")
    assert (tmp_path / "link.mp4").is_symlink()
    assert (tmp_path / "real.mp4").read_text() == "new"


def test_a_part_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / ".a.mp4.mochi-part").symlink_to("precious")
    with pytest.raises(OutputError):
        claim(tmp_path / "a.mp4").__enter__()
    assert (tmp_path / "precious").read_text() == "keep"


def test_files_get_the_permissions_that_the_user_gives_to_new_files(tmp_path: Path) -> None:
    with claim(tmp_path / "a.mp4"):
        pass
    (tmp_path / "b").touch()
    assert (tmp_path / "a.mp4").stat().st_mode == (tmp_path / "b").stat().st_mode


class TestFolders:
    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / "frames").mkdir()
        with claim(tmp_path / "frames", folder=True) as part:
            (part / "new").write_text("x")
        assert names(tmp_path / "frames") == ["new"]

    def test_frames_of_ours_are_replaced_with_overwrite_alone(self, tmp_path: Path) -> None:
        target = frame_folder(tmp_path / "frames")
        with pytest.raises(OutputError, match="exists already"):
            claim(target, folder=True).__enter__()
        with claim(target, overwrite=True, folder=True) as part:
            (part / "new").write_text("x")
            assert "frame_00000.png" in names(target)
        assert names(target) == ["new"]
        assert names(tmp_path) == ["frames"]

    @pytest.mark.parametrize("foreign", ["thesis.txt", "request.json", "photo.png"])
    def test_other_peoples_files_are_never_replaced(self, tmp_path: Path, foreign: str) -> None:
        target = tmp_path / "holiday"
        target.mkdir()
        (target / foreign).write_text("mine")
        with pytest.raises(OutputError, match="holds other files"):
            claim(target, overwrite=True, folder=True).__enter__()
        assert names(target) == [foreign]

    def test_one_foreign_file_among_our_frames_is_enough(self, tmp_path: Path) -> None:
        target = frame_folder(tmp_path / "frames")
        (target / "notes.txt").write_text("mine")
        with pytest.raises(OutputError, match=r"notes\.txt"):
            claim(target, overwrite=True, folder=True).__enter__()

    def test_the_old_frames_come_back_when_the_exchange_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target, rename = frame_folder(tmp_path / "frames"), os.rename

        def fail_on_part(source: Path, to: Path) -> None:
            if str(source).endswith("part"):
                raise OSError(errno.EIO, "broken")
            rename(source, to)

        monkeypatch.setattr(output.os, "rename", fail_on_part)
        with pytest.raises(OutputError), claim(target, overwrite=True, folder=True):
            pass
        assert names(target) == ["frame_00000.png", "request.json"]
        assert names(tmp_path) == ["frames"]

    def test_a_file_is_not_replaced_by_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "frames").write_text("text")
        with pytest.raises(OutputError, match="no folder"):
            claim(tmp_path / "frames", overwrite=True, folder=True).__enter__()
