"""What a download refuses: in one line, and with nothing half-written."""

import errno
import hashlib
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import WeakFileLock
from tests.weights.hub.repository import BIG, REPOSITORY, WANTED, contents, refusal

from mochi.core.errors import DownloadError
from mochi.weights import transfer
from mochi.weights.hub_files import RemoteFile, select


def test_a_private_repository_wants_the_token(hub: Any, fetch: Callable[..., Path]):
    hub.token = "secret"
    assert "does not exist, or is private and wants a token (the hub says 401)" in refusal(fetch)
    assert (fetch(token="secret") / "dit.safetensors").is_file()


@pytest.mark.parametrize(
    ("status", "says", "tries"),
    [
        (401, "wants a token", 1),
        (403, "the token has no right to it", 1),
        (404, "no such repository or file", 1),
        (418, "the hub refused (it says 418)", 1),
        (429, "too many requests", 3),
        (500, "the hub has trouble", 3),
        (503, "the hub has trouble", 3),
    ],
)
@pytest.mark.parametrize("kind", ["api", "resolve"])
def test_a_status_is_one_line(
    hub: Any,
    fetch: Callable[..., Path],
    waits: list[float],
    kind: str,
    status: int,
    says: str,
    tries: int,
):
    hub.statuses[kind] = [status] * 10
    assert says in refusal(fetch)
    assert len(waits) == tries - 1
    if status == 429:
        assert waits == [3, 3]  # as its Retry-After says


def test_trouble_that_passes_is_not_an_error(
    hub: Any, fetch: Callable[..., Path], waits: list[float]
):
    hub.statuses = {"api": [503, 429], "resolve": [500, 200, 502]}
    assert contents(fetch()) == {name: REPOSITORY[name] for name in WANTED}
    assert waits == [1, 3, 1, 1]


def test_unknown_names(fetch: Callable[..., Path]):
    assert "no such repository" in refusal(fetch, repo_id="owner/other")
    assert "has no revision 'v9'" in refusal(fetch, revision="v9")
    assert "no repository name" in refusal(fetch, repo_id="not a name/at/all")


def test_nobody_answers(fetch: Callable[..., Path], waits: list[float]):
    assert "the hub went away" in refusal(fetch, endpoint="http://127.0.0.1:9")
    assert waits == [1, 2]


def test_something_else_than_a_hub_answers(hub: Any, fetch: Callable[..., Path]):
    hub.garbage = True
    assert f"what answers at {hub.endpoint} is no hub" in refusal(fetch)


def test_a_disk_that_is_too_small_is_said_before_the_start(
    hub: Any, fetch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    assert "owner/model needs 0.3 MB, and " in refusal(fetch)
    assert not hub.downloads()
    assert not (tmp_path / "to").exists()


def test_a_disk_that_fills_up_is_one_line(
    fetch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def full(self: object, block: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer.Partial, "append", full)
    assert refusal(fetch) == "owner/model: No space left on device (what arrived is kept)"
    assert not contents(tmp_path / "to")


def test_a_folder_that_is_a_file(fetch: Callable[..., Path], tmp_path: Path):
    (tmp_path / "to").write_text("here")
    assert "owner/model: " in refusal(fetch)
    assert (tmp_path / "to").read_text() == "here"


def test_two_runs_do_not_write_the_same_file(fetch: Callable[..., Path]):
    folder = fetch()
    (lock,) = [p for p in (folder / ".mochi").glob("*.lock") if p.name.startswith(sha(BIG))]
    (folder / "dit.safetensors").unlink()
    with WeakFileLock(lock):
        assert refusal(fetch) == "dit.safetensors is being downloaded by another run"
    assert (fetch() / "dit.safetensors").read_bytes() == BIG


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize("name", ["../x.json", "/etc/x", "a/../../x", "C:x", "a\\..\\x"])
def test_names_that_leave_the_repository_are_refused(name: str):
    with pytest.raises(DownloadError, match="outside its repository"):
        RemoteFile(name, 1, "0" * 64)


def test_a_file_without_a_checksum_is_refused():
    with pytest.raises(DownloadError, match="without a checksum"):
        RemoteFile("a.json", 1, "")


def test_a_diffusers_repository_gives_one_variant():
    stem = "transformer/diffusion_pytorch_model"
    names = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "transformer/config.json",
        f"{stem}-00001-of-00002.safetensors",
        f"{stem}-00002-of-00002.safetensors",
        f"{stem}.safetensors.index.json",
        f"{stem}.bf16-00001-of-00001.safetensors",
        f"{stem}.safetensors.index.bf16.json",
        f"{stem}.bin",
        f"{stem}.bin.index.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/nested/model.safetensors",
    ]
    plain = select(names, ("dit", "encoder", "tokenizer"))
    assert plain == {
        "": ["model_index.json", "scheduler/scheduler_config.json"],
        "dit": names[2:6],
        "encoder": ["vae/diffusion_pytorch_model.safetensors"],
        "tokenizer": [],
    }
    bf16 = select(names, ("dit", "text_encoder"), "bf16")
    assert bf16["dit"] == ["transformer/config.json", *names[6:8]]
    assert bf16["text_encoder"] == ["text_encoder/model.safetensors"]
