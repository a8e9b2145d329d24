"""The predictor of cog.yaml under Cog's own HTTP server, from PyPI, with nano."""

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.serving.harness import until

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"prompt": "a red circle moves left", "num_frames": 8, "num_inference_steps": 2, "seed": 3}
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """What `cog build` would start in the container, as it would."""
    config = yaml.safe_load((REPOSITORY / "cog.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # its worker is `python`
        "PORT": str(port),
        "COG_PREDICT_TYPE_STUB": config["predict"],
        "PYTHONPATH": str(REPOSITORY / "src"),
    }
    log = (tmp_path_factory.mktemp("cog") / "log").open("w+b")
    process = subprocess.Popen(
        [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"],
        cwd=REPOSITORY,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            until(lambda: _status(client) == "READY", 600)
            yield client
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _status(client: httpx.Client) -> str | None:
    try:
        answer = client.get("/health-check").json()
    except httpx.HTTPError:
        return None
    assert answer["status"] != "SETUP_FAILED", answer
    return str(answer["status"])


def asked(cog: httpx.Client, method: str, path: str, **body: Any) -> httpx.Response:
    """Cog frees its only slot after it has answered; whoever is quicker is told to come again."""

    def once() -> httpx.Response | None:
        answer = cog.request(method, path, **body)
        return None if answer.status_code == 409 else answer

    found: httpx.Response = until(once, 600)
    return found


def made(job: dict[str, Any]) -> bytes:
    assert job["status"] == "succeeded", job
    kind, _, content = job["output"].partition(",")
    assert kind.startswith("data:video/mp4"), kind
    return base64.b64decode(content)


def test_it_answers_with_a_video(cog: httpx.Client) -> None:
    answer = asked(cog, "POST", "/predictions", json={"input": SMALL})
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert made(job)[4:8] == b"ftyp"
    assert "seed 3" in job["logs"]
    assert "7 frames are made" in job["logs"]
    assert "2/2 [" in job["logs"]


def test_putting_twice_is_one_prediction_and_the_same_seed_the_same_video(
    cog: httpx.Client,
) -> None:
    videos = []
    for job_id in ("one", "two"):
        answer = asked(cog, "PUT", f"/predictions/{job_id}", json={"input": SMALL})
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == job_id
        videos.append(made(answer.json()))
    assert videos[0] == videos[1]


@pytest.mark.parametrize(("field", "value"), [("width", 65), ("prompt", ""), ("prompt", None)])
def test_a_wrong_input_is_told_by_its_field(cog: httpx.Client, field: str, value: object) -> None:
    """By Cog itself in a container, which has the schema of its inputs; else by the model."""
    given = {**SMALL, field: value}
    if value is None:
        del given[field]
    answer = asked(cog, "POST", "/predictions", json={"input": given})
    assert answer.status_code == 422 or answer.json()["status"] == "failed", answer.text
    assert field in answer.text


def test_a_long_one_is_cancelled(cog: httpx.Client) -> None:
    body = {"input": {**SMALL, "num_frames": 25, "num_inference_steps": 200}}
    later = {"Prefer": "respond-async"}
    answer = asked(cog, "PUT", "/predictions/three", json=body, headers=later)
    assert answer.status_code == 202, answer.text
    assert cog.post("/predictions/three/cancel").status_code == 200
    until(lambda: cog.post("/predictions", json={"input": SMALL}).status_code == 200, 600)
