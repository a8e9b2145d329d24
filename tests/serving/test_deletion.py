"""Deleted is deleted: no table, file or page of a database holds what was there."""

import time
from pathlib import Path

import pytest
from tests.serving.conftest import BOTH, Clock
from tests.serving.harness import Running, running, until

from mochi.serving import variants
from mochi.serving.housekeeping import clean
from mochi.serving.store.tables import metadata

WORDS = "unforgettable-words"
UPLOAD = b"unforgettable-bytes" * 100


def made(server: Running) -> str:
    """A finished run that has left everything that a run can leave."""
    job = server.ended(server.create(f"real {WORDS}")["id"])
    assert job["status"] == "succeeded"
    for address in job["variants"].values():
        assert server.http.get(address).status_code == 200
    server.http.put(f"/v1/predictions/{job['id']}/share")
    return str(job["id"])


def uploaded(server: Running) -> str:
    answer = server.http.post("/v1/files", files={"content": ("a.bin", UPLOAD)})
    return str(answer.json()["id"])


def holding(folder: Path, needle: bytes) -> list[str]:
    """Files below a folder that hold these bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if needle in path.read_bytes()]


def rows(server: Running) -> dict[str, str]:
    """Each table's content, as text."""
    with server.services.database.read() as connection:
        return {
            table.name: str(connection.execute(table.select()).all())
            for table in metadata.sorted_tables
        }


def tables_with(server: Running, *needles: str) -> list[str]:
    found = rows(server).items()
    return [name for name, text in found if any(needle in text for needle in needles)]


@pytest.mark.parametrize("database_url", BOTH, indirect=True)
def test_deleting_a_run_leaves_no_copy(tmp_path: Path, database_url: str) -> None:
    with running(tmp_path / "data", database=database_url) as server:
        job_id = made(server)
        video = server.services.files.of(job_id)[0]
        content = b"".join(server.services.blobs.read(video.id, 0, video.size))
        assert len(server.services.blobs.keys()) == 5
        assert "predictions" in tables_with(server, WORDS)
        assert server.http.delete(f"/v1/predictions/{job_id}").status_code == 204
        assert server.services.blobs.keys() == []
        assert tables_with(server, WORDS, video.id) == []
        assert tables_with(server, job_id) == ["audit"]
        until(lambda: holding(tmp_path, WORDS.encode()) == [] or server.services.database.scrub())
        assert holding(tmp_path, content[1000:1100]) == []
        for address in ("", "/events", "/stream"):
            assert server.http.get(f"/v1/predictions/{job_id}{address}").status_code == 404
        assert server.http.get(f"/v1/shared/{job_id}").status_code == 404
        assert server.http.get(f"/v1/files/{video.id}/download").status_code == 404


def test_deleting_an_upload_leaves_no_copy(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        upload = uploaded(server)
        assert holding(tmp_path, UPLOAD[:100]) == [upload]
        assert server.http.delete(f"/v1/files/{upload}").status_code == 204
        assert holding(tmp_path, UPLOAD[:100]) == []
        assert tables_with(server, upload) == ["audit"]


def test_time_does_the_same(tmp_path: Path) -> None:
    with running(tmp_path, retention_days=10.0) as server:
        clock = Clock()
        clock.now = time.time()
        server.services.database.clock = clock
        job_id, upload = made(server), uploaded(server)
        video = server.http.get(f"/v1/videos/{job_id}").json()
        assert video["expires_at"] == video["completed_at"] + 10 * 86400
        assert server.http.get(f"/v1/files/{upload}").json()["expires_at"] is not None
        clock.now += 9 * 86400
        clean(server.services)
        assert server.get(job_id)["status"] == "succeeded"
        late = uploaded(server)
        clock.now += 2 * 86400
        clean(server.services)
        assert server.services.blobs.keys() == [late]
        assert tables_with(server, WORDS) == []
        assert tables_with(server, job_id, upload) == ["audit"]
        actions = [line["action"] for line in server.services.audit.latest(2)]
        assert actions == ["expired", "expired"]


def test_a_picture_that_is_made_while_its_video_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as server:
        job_id = made(server)
        video = server.services.files.of(job_id)[0]
        server.services.blobs.delete(f"{video.id}.gif")
        make = variants.MAKERS["gif"]

        def slow(source: Path, target: Path) -> None:
            make(source, target)
            assert server.http.delete(f"/v1/predictions/{job_id}").status_code == 204

        monkeypatch.setitem(variants.MAKERS, "gif", slow)
        address = f"/v1/files/{video.id}/download?variant=gif"
        assert server.http.get(address).status_code == 404
        assert server.services.blobs.keys() == []


def test_what_is_on_its_way_is_not_cleaned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes come before their row; the cleaning may come between the two."""
    with running(tmp_path) as server:
        blobs = server.services.blobs
        put, cleanings = blobs.put, []

        def put_and_clean(key: str, source: Path) -> None:
            put(key, source)
            clean(server.services)
            cleanings.append(key)

        monkeypatch.setattr(blobs, "put", put_and_clean)
        upload = uploaded(server)
        assert server.http.get(f"/v1/files/{upload}/download").content == UPLOAD
        job = server.ended(server.create()["id"])
        assert server.http.get(job["output"]).status_code == 200
        assert len(cleanings) == 2
        assert sorted(blobs.keys()) == sorted(cleanings)
