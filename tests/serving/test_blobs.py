"""Blobs in a folder and in a bucket behave the same."""

from pathlib import Path

import pytest

from mochi.core.errors import OutputError, RequestError
from mochi.serving.blobs import Blobs, FolderBlobs, open_blobs
from mochi.serving.jobs import new_id


@pytest.fixture(params=["folder", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    place = tmp_path / "blobs" if request.param == "folder" else f"memory://{tmp_path}"
    return open_blobs(place)


def put(blobs: Blobs, tmp_path: Path, key: str, content: bytes) -> None:
    path = tmp_path / "made.mp4"
    path.write_bytes(content)
    blobs.put(key, path)
    assert not path.exists()


def test_what_was_put_is_there_in_any_range(blobs: Blobs, tmp_path: Path) -> None:
    key, content = new_id(), bytes(range(256)) * 3000
    assert blobs.size(key) is None
    put(blobs, tmp_path, key, content)
    assert blobs.size(key) == len(content)
    for start, stop in [(0, len(content)), (5, 6), (300_000, 700_000), (7, 7)]:
        assert b"".join(blobs.read(key, start, stop)) == content[start:stop]
    assert blobs.keys() == [key]


def test_deleting_takes_the_variants_along_and_nothing_else(blobs: Blobs, tmp_path: Path) -> None:
    key, other = new_id(), new_id()
    for name in (key, f"{key}.gif", f"{key}.last_frame", other):
        put(blobs, tmp_path, name, b"x")
    blobs.delete(key)
    assert blobs.keys() == [other]
    blobs.delete(key)


def test_replacing_is_whole(blobs: Blobs, tmp_path: Path) -> None:
    key = new_id()
    put(blobs, tmp_path, key, b"first")
    put(blobs, tmp_path, key, b"second")
    assert b"".join(blobs.read(key, 0, 100)) == b"second"
    blobs.check()


def test_a_name_that_is_no_key_of_ours_is_our_mistake(blobs: Blobs) -> None:
    for name in ("../../etc/passwd", "", "a" * 26 + "/x", "A" * 26, "a" * 26 + ".x.y"):
        with pytest.raises(AssertionError):
            blobs.size(name)


def test_a_disk_that_refuses_is_one_clear_error(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    with pytest.raises(OutputError, match="cannot be stored: No such file"):
        blobs.put(new_id(), tmp_path / "never made")
    broken = FolderBlobs(tmp_path / "other")
    (tmp_path / "other").rmdir()
    with pytest.raises(OutputError, match="the data folder refuses"):
        broken.check()


def test_a_url_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RequestError, match="cannot be opened"):
        open_blobs("nosuch://bucket")
