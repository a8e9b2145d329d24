"""`mochi.Client`, and the commands that use a server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.harness import HELD, PROMPT, Running, running

import mochi
from mochi.cli.app import run as run_command
from mochi.cli.interrupt import Interrupt
from mochi.core.errors import Cancelled, OutputError, RequestError, SamplingError
from mochi.core.events import CancelToken, Event, PhaseEnded, PhaseStarted, StepDone
from mochi.serving.client import Client, ServerError
from mochi.serving.opening import open_database
from mochi.serving.settings import read_settings
from mochi.serving.store.audit import Audit
from mochi.serving.store.database import Database
from mochi.serving.store.tokens import Tokens


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with mochi.Client(server.url) as client:
        yield client


def test_a_video_from_a_server(client: Client, tmp_path: Path) -> None:
    heard: list[Event] = []
    job = client.submit(PROMPT, seed=3, steps=5, frames=13, guidance=2.5)
    prediction = job.wait(on_event=heard.append)
    assert prediction["metrics"]["steps"] == 5
    assert prediction["metrics"]["frames"] == 13
    steps = [event.step for event in heard if isinstance(event, StepDone)]
    assert steps == [1, 2, 3, 4, 5]
    began = [event.phase for event in heard if isinstance(event, PhaseStarted)]
    assert began == [event.phase for event in heard if isinstance(event, PhaseEnded)]
    path = job.save(tmp_path / "out.mp4")
    assert path.read_bytes() == f"a video of {PROMPT}".encode()
    with pytest.raises(OutputError, match="exists already"):
        job.save(path)
    with pytest.raises(RequestError, match="ending"):
        job.save(tmp_path / "out.avi")
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_previews_are_pictures(client: Client) -> None:
    job = client.submit("slow circle", steps=3)
    previews = [told for told in job.events(previews=True) if told.type == "preview"]
    assert previews
    assert previews[0].preview.startswith(b"\x89PNG")
    assert client.job(job.id).status in ("processing", "succeeded")


def test_a_wrong_setting_is_the_same_error_as_here(client: Client) -> None:
    with pytest.raises(RequestError, match=r"steps=.* must be at most 200; nearest: 200") as caught:
        client.submit(PROMPT, steps=500)
    assert caught.value.field == "steps"


def test_cancelling_from_here(client: Client) -> None:
    job, token = client.submit(HELD), CancelToken()  # after its first step nothing is heard of it

    def stop(event: Event) -> None:
        if isinstance(event, StepDone):
            token.cancel()

    with pytest.raises(Cancelled):
        job.wait(on_event=stop, cancel=token)
    assert job.status == "canceled"


def test_a_failure_is_the_same_error_as_here(client: Client) -> None:
    with pytest.raises(SamplingError, match="it went wrong"):
        client.submit("fail please").wait()


def test_an_estimate(client: Client) -> None:
    client.submit(PROMPT).wait()
    found = client.estimate(PROMPT, frames=27)
    assert found["fits"]
    assert found["notes"] == ["num_frames=27 is not 6k+1: 25 frames are made"]
    assert found["seconds"]["p50"] > 0
    assert found["queue"]["position"] == 1


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mochi.serving.client.time.sleep", lambda seconds: None)
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerError):
        client.submit(PROMPT)
    with pytest.raises(RequestError, match="no address"):
        Client("localhost")


def test_a_job_that_is_not_there(client: Client) -> None:
    with pytest.raises(ServerError, match="404"):
        client.job("a" * 26)


def mochi_command(*words: object) -> list[str]:
    return [sys.executable, "-m", "mochi", *map(str, words)]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(mochi_command(*words), capture_output=True, text=True, timeout=600)


def test_the_command_line_on_a_server(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> tuple[int, str, str]:
        code = run_command(["generate", *map(str, words), "--server", server.url], Interrupt())
        return code, *capsys.readouterr()

    path = tmp_path / "out.mp4"
    code, out, err = run(PROMPT, "--seed", 3, "--steps", 2, "--output", path)
    assert code == 0, err
    assert out == f"{path}: 64x64, 25 frames, seed 3, {out.split()[-2]} s\n"
    assert "Denoising: " in err
    assert path.read_bytes() == f"a video of {PROMPT}".encode()
    assert run(PROMPT, "--output", path)[0] == 1
    assert "exists already" in run(PROMPT, "--output", path)[2]
    code, _, err = run(PROMPT, "--steps", 500, "--output", tmp_path / "b.mp4")
    assert code == 2
    assert "steps=" in err
    code, _, err = run(PROMPT, "--latents", "x.safetensors")
    assert code == 2
    assert "not possible with --server" in err


def test_a_public_address_needs_a_token(tmp_path: Path) -> None:
    result = run("serve", "--host", "0.0.0.0", "--port", 0, "--data", tmp_path)
    assert result.returncode == 2
    assert "mochi token create" in result.stderr
    assert "Traceback" not in result.stderr


def test_tokens_are_made_listed_and_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> tuple[int, str]:
        code = run_command([*map(str, words), "--data", str(tmp_path)], Interrupt())
        return code, capsys.readouterr().out

    _, token = run("token", "create", "--scope", "read", "--account", "alice")
    token = token.strip()
    tokens = Tokens(Database.in_folder(tmp_path))
    identity = tokens.find(token)
    assert identity is not None
    assert (identity.account, identity.scopes) == ("alice", {"read"})
    token_id = token.split("_")[1]
    _, listed = run("token", "list")
    assert token_id in listed
    assert token.split("_")[2] not in listed
    assert run("token", "revoke", token_id) == (0, "")
    assert tokens.find(token) is None
    assert run("token", "revoke", token_id)[0] == 1
    assert run("token", "create", "--scope", "all")[0] == 2
    assert run("token", "create", "--concurrency", 0)[0] == 2
    bounded = run("token", "create", "--concurrency", 2, "--seconds-per-day", 60)[1].split("_")[1]
    assert f"{bounded}  valid" in run("token", "list")[1]
    assert "2 at once  60 s a day" in run("token", "list")[1]


def test_the_audit_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Audit(Database.in_folder(tmp_path))
    open_database(read_settings(data=tmp_path))
    lines.add("alice", "flagged", None, term="csam")
    lines.add("bob", "deleted", "a" * 26)
    assert run_command(["audit", "--data", str(tmp_path), "--count", "1"], Interrupt()) == 0
    assert capsys.readouterr().out.split()[2:] == ["deleted", "bob", "a" * 26]
    assert run_command(["audit", "--data", str(tmp_path), "--json"], Interrupt()) == 0
    assert [line["action"] for line in json.loads(capsys.readouterr().out)] == [
        "deleted",
        "flagged",
    ]


def test_the_whole_command_with_nano(tmp_path: Path) -> None:
    words = ("serve", "--port", 0, "--data", tmp_path / "data")
    process = subprocess.Popen(
        mochi_command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with mochi.Client(url) as client:
            job = client.submit("a red circle moves left on a black background", seed=7, steps=2)
            told = {it.type: it.data for it in job.events(previews=True)}
            assert {"phase", "step", "preview", "frames", "output", "done"} <= set(told)
            job.wait()
            counted = client.ask("POST", "/v1/count-tokens", {"prompt": "a red circle"})
            assert counted == {"tokens": 4, "limit": 256, "cut": False}
            assert client.estimate("a red circle")["memory_bytes"] > 10**7
            path = job.save(tmp_path / "out.mp4")
            picture = job.save(tmp_path / "last.png")
            gif = job.save(tmp_path / "out.gif")
        assert path.read_bytes()[4:8] == b"ftyp"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert gif.read_bytes().startswith(b"GIF8")
        os.kill(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.communicate()
