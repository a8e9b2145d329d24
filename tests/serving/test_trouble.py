"""A disk that is full, a database that goes away, a runner that cannot start: jobs wait, the server
says why, and when it is over all are done, once."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.serving.conftest import needs_postgresql
from tests.serving.harness import FAKE, PROMPT, Running, running, until
from tests.serving.postgres import cluster

from mochi.core.errors import OutputError
from mochi.serving import worker
from mochi.serving.blobs import FolderBlobs
from mochi.serving.runner.process import ProcessRunner
from mochi.serving.store.database import Database, DatabaseError


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_LONGEST_PAUSE", 1.0)


def readiness(server: Running) -> tuple[int, dict[str, Any]]:
    answer = server.http.get("/readyz")
    return answer.status_code, answer.json()["checks"]


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise OutputError("output cannot be stored: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FolderBlobs, "put", refuse)
        patch.setattr(FolderBlobs, "check", refuse)
        yield


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path) as server:
        with full_disk(monkeypatch):
            job_id = server.create()["id"]
            until(
                lambda: "No space left" in (server.http.get("/v1/server").json()["trouble"] or "")
            )
            status, checks = readiness(server)
            assert status == 503
            assert "No space left" in checks["blobs"]
            answer = server.http.post("/v1/files", files={"content": ("a", b"x")})
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert server.get(job_id)["status"] in ("starting", "processing")
            assert "No space left" in server.get(job_id)["logs"]
        done = server.ended(job_id)
        assert done["status"] == "succeeded", done
        until(lambda: server.http.get("/v1/server").json()["trouble"] is None)
        assert readiness(server)[0] == 200
        assert len(server.services.blobs.keys()) == 1
        assert server.http.get("/v1/files").json()["results"] == []


@contextmanager
def database_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise DatabaseError("the database does not answer: connection refused")

    with monkeypatch.context() as patch:
        for way in ("read", "single", "write"):
            patch.setattr(Database, way, refuse)
        yield


def test_a_database_that_goes_away_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as server:
        running_id = server.create(f"circle {tmp_path / 'go'}")["id"]
        waiting_id = server.create()["id"]
        until(lambda: server.get(running_id)["status"] == "processing")
        body = {"input": {"prompt": PROMPT}}
        with database_away(monkeypatch):
            for answer in (
                server.http.post("/v1/predictions", json=body),
                server.http.get(f"/v1/predictions/{running_id}"),
                server.http.get("/v1/videos"),
            ):
                assert answer.status_code == 503, answer.text
                assert answer.headers["retry-after"]
            assert server.http.get("/healthz").status_code == 200
            status, checks = readiness(server)
            assert status == 503
            assert "does not answer" in checks["database"]
        (tmp_path / "go").touch()
        for job_id in (running_id, waiting_id):
            assert server.ended(job_id)["status"] == "succeeded"
        assert len(server.http.get("/v1/predictions").json()["results"]) == 2
        assert len(server.services.blobs.keys()) == 2


@pytest.mark.long
@needs_postgresql
def test_a_postgresql_that_is_stopped_and_started(tmp_path: Path) -> None:
    with cluster() as make:
        url = make()
        folder = Path(url.partition("?host=")[2])
        user = folder.owner()

        def pg_ctl(*words: str) -> None:
            command = ["pg_ctl", "-D", str(folder / "data"), *words]
            subprocess.run(
                command, check=True, cwd=folder, timeout=60, user=user, capture_output=True
            )

        with running(tmp_path, database=url) as server:
            running_id = server.create(f"circle {tmp_path / 'go'}")["id"]
            waiting_id = server.create()["id"]
            until(lambda: server.get(running_id)["status"] == "processing")
            options = (folder / "data" / "postmaster.opts").read_text().strip().split(maxsplit=1)[1]
            pg_ctl("-m", "immediate", "-w", "stop")
            answer = server.http.get(f"/v1/predictions/{running_id}")
            assert answer.status_code == 503
            assert readiness(server)[0] == 503
            pg_ctl("-l", str(folder / "log"), "-o", options.replace('"', ""), "-w", "start")
            (tmp_path / "go").touch()
            for job_id in (running_id, waiting_id):
                assert server.ended(job_id)["status"] == "succeeded"
            assert len(server.services.blobs.keys()) == 2


def broken(device: str, models: Any) -> ProcessRunner:
    return ProcessRunner(device, models, [*FAKE, "broken"])


def test_a_runner_that_cannot_start(tmp_path: Path) -> None:
    with running(tmp_path):
        pass  # the models were looked at once: the server comes up without a runner from now on
    with running(tmp_path, broken) as server:
        job_id = server.create()["id"]
        (state,) = until(
            lambda: (
                (found := server.http.get("/v1/server").json()["runners"])[0]["reason"] and found
            )
        )
        assert state["state"] in ("failed", "starting")
        assert state["reason"] == "weights/dit.safetensors: is cut off"
        status, checks = readiness(server)
        assert (status, checks["runner"]) == (503, "weights/dit.safetensors: is cut off")
        assert server.get(job_id)["status"] == "starting"
        answer = server.http.post("/v1/count-tokens", json={"prompt": "x"})
        assert answer.status_code == 503
        assert server.http.post("/v1/estimates", json={"input": {"prompt": "x"}}).json()[
            "memory_bytes"
        ] is None  # fmt: skip
    with running(tmp_path) as server:
        assert server.ended(job_id)["status"] == "succeeded"


def test_a_runner_that_comes_up_later(tmp_path: Path) -> None:
    """Its files were not there yet, say: nobody has to start the server again."""
    with running(tmp_path):
        pass
    flag = tmp_path / "fixed"
    script = (
        f"import os, sys; os.path.exists({str(flag)!r}) or sys.exit(3); sys.argv = sys.argv[1:]"
    )
    script += "; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"

    def make(device: str, models: Any) -> ProcessRunner:
        return ProcessRunner(device, models, [sys.executable, "-c", script, FAKE[1]])

    with running(tmp_path, make) as server:
        job_id = server.create()["id"]
        until(lambda: server.http.get("/v1/server").json()["trouble"])
        flag.touch()
        assert server.ended(job_id)["status"] == "succeeded"
