"""Downloads from a local hub: whole, resumed, checked, and refused in one line."""

import errno
import hashlib
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import WeakFileLock

from mochi.core.errors import DownloadError
from mochi.weights import transfer
from mochi.weights.folder import ModelFiles
from mochi.weights.hub import DownloadPlan, DownloadProgress, download, find_cached
from mochi.weights.hub_files import RemoteFile, select
from mochi.weights.transfer import Retry
from mochi.weights.verify import verify

BIG = bytes(i * 7 % 251 for i in range(300_000))
REPOSITORY = {
    "README.md": b"# A model",
    "dit.safetensors": BIG,
    "decoder.safetensors": b"decoder" * 100,
    "encoder.safetensors": b"encoder" * 100,
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors": b"text" * 100,
    "tokenizer/spiece.model": b"pieces",
    "transformer/diffusion_pytorch_model.safetensors": b"the same once more",
    "vae/diffusion_pytorch_model.safetensors": b"the same once more",
    "picture.mp4": b"a film",
}
WANTED = {name for name in REPOSITORY if not name.startswith(("transformer", "vae", "picture"))}


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def fetch(hub: Any, tmp_path: Path, waits: list[float]) -> Callable[..., Path]:
    """Download into a folder, with patience that takes no time."""
    hub.files = dict(REPOSITORY)

    def go(repo_id: str = "owner/model", dest: Path | None = tmp_path / "to", **more: Any) -> Path:
        settings = {"endpoint": hub.endpoint, "token": False, "cache": tmp_path / "cache"}
        retry = Retry(attempts=3, wait_seconds=1, sleep=waits.append)
        return download(repo_id, dest, **(settings | {"retry": retry} | more))

    return go


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".mochi" not in path.parts
    }


def refusal(fetch: Callable[..., Path], **more: Any) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(**more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------------------- all well


def test_the_files_of_a_model_arrive_and_nothing_else(fetch: Callable[..., Path]):
    folder = fetch()
    assert contents(folder) == {name: REPOSITORY[name] for name in WANTED}
    assert ModelFiles.find(folder).layout == "original"
    assert all(finding.ok for finding in verify(folder) if finding.kind == "checksum")


def test_licence_and_size_are_told_before_the_first_byte(hub: Any, fetch: Callable[..., Path]):
    plans: list[DownloadPlan] = []

    def look(plan: DownloadPlan) -> None:
        assert not hub.downloads()
        plans.append(plan)

    fetch(on_plan=look)
    size = sum(len(REPOSITORY[name]) for name in WANTED)
    assert (plans[0].total_bytes, plans[0].missing_bytes) == (size, size)
    assert str(plans[0]).startswith(
        f"owner/model at 01234567: licence apache-2.0, 7 files, {size / 1e6:.1f} MB, to "
    )
    hub.licence = None
    hub.seen.clear()
    fetch(on_plan=look)
    assert "licence not stated" in str(plans[1])
    assert plans[1].missing_bytes == 0
    assert f"{size / 1e6:.1f} MB of it here" in str(plans[1])


def test_progress_ends_at_the_total(fetch: Callable[..., Path]):
    told: list[DownloadProgress] = []
    fetch(on_progress=told.append)
    done = [progress.done_bytes for progress in told]
    assert done == sorted(done)
    assert done[-1] == told[-1].total_bytes == sum(len(REPOSITORY[name]) for name in WANTED)


def test_a_second_download_fetches_nothing(hub: Any, fetch: Callable[..., Path]):
    fetch()
    before = len(hub.downloads())
    fetch()
    assert len(hub.downloads()) == before


def test_a_changed_file_is_fetched_again_alone(hub: Any, fetch: Callable[..., Path]):
    folder = fetch()
    hub.files["decoder.safetensors"] = b"another"
    hub.seen.clear()
    fetch()
    assert hub.downloads() == [("decoder.safetensors", None)]
    assert (folder / "decoder.safetensors").read_bytes() == b"another"


def test_files_that_came_in_another_way_are_checked_and_kept(
    hub: Any, fetch: Callable[..., Path], tmp_path: Path
):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "dit.safetensors").write_bytes(BIG)
    (tmp_path / "to" / "decoder.safetensors").write_bytes(b"x" * 700)  # the right size
    fetch()
    names = [name for name, _ in hub.downloads()]
    assert "dit.safetensors" not in names
    assert "decoder.safetensors" in names


@pytest.mark.parametrize("revision", [None, "v1"])
def test_the_cache_is_the_one_others_use(
    hub: Any, fetch: Callable[..., Path], tmp_path: Path, revision: str | None
):
    folder = fetch(dest=None, revision=revision)
    assert contents(folder) == {name: REPOSITORY[name] for name in WANTED}
    assert find_cached("owner/model", revision, tmp_path / "cache") == folder
    assert find_cached("owner/other", cache=tmp_path / "cache") is None
    hub.seen.clear()
    theirs = huggingface_hub.hf_hub_download(
        "owner/model",
        "dit.safetensors",
        revision=revision,
        cache_dir=tmp_path / "cache",
        local_files_only=True,
    )
    assert Path(theirs) == folder / "dit.safetensors"
    everything = huggingface_hub.snapshot_download(
        "owner/model",
        revision=revision,
        cache_dir=tmp_path / "cache",
        endpoint=hub.endpoint,
        token=False,
        allow_patterns=sorted(WANTED),
    )
    assert Path(everything) == folder
    assert not hub.downloads()
    assert all(finding.ok for finding in verify(folder) if finding.kind == "checksum")


def test_what_others_put_into_the_cache_is_used(
    hub: Any, fetch: Callable[..., Path], tmp_path: Path
):
    huggingface_hub.hf_hub_download(
        "owner/model",
        "dit.safetensors",
        cache_dir=tmp_path / "cache",
        endpoint=hub.endpoint,
        token=False,
    )
    hub.seen.clear()
    fetch(dest=None)
    assert "dit.safetensors" not in dict(hub.downloads())


def test_only_the_parts_that_are_asked_for(fetch: Callable[..., Path]):
    folder = fetch(parts=("decoder",))
    assert set(contents(folder)) == {"README.md", "decoder.safetensors"}


def test_parts_that_a_repository_lacks_are_named(hub: Any, fetch: Callable[..., Path]):
    plans: list[DownloadPlan] = []
    hub.files = {"dit.safetensors": BIG, "decoder.safetensors": b"d"}
    fetch(on_plan=plans.append)
    assert plans[0].absent == ("encoder", "text_encoder", "tokenizer")
    assert str(plans[0]).endswith("it has no encoder, text_encoder, tokenizer")
    hub.files = {"README.md": b"text", "model.gguf": b"g"}
    assert "has no dit or decoder" in refusal(fetch)


def test_a_stop_before_the_start_leaves_nothing(
    hub: Any, fetch: Callable[..., Path], tmp_path: Path
):
    def stop(plan: DownloadPlan) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(on_plan=stop)
    assert not hub.downloads()
    assert not (tmp_path / "to").exists()


# --------------------------------------------------------------------------------- resume and check


def test_a_cut_connection_is_resumed_where_it_broke(
    hub: Any, fetch: Callable[..., Path], waits: list[float]
):
    hub.cuts = [100_000, 50_000]
    folder = fetch(parts=("dit",))
    assert (folder / "dit.safetensors").read_bytes() == BIG
    ranges = [r for name, r in hub.downloads() if name == "dit.safetensors"]
    assert ranges[0] is None
    assert ranges[1:] == ["bytes=100000-", "bytes=150000-"]
    assert len(waits) == 2


def test_an_interrupted_run_goes_on_in_the_next(
    hub: Any, fetch: Callable[..., Path], tmp_path: Path
):
    def stop(progress: DownloadProgress) -> None:
        if progress.file == "dit.safetensors" and progress.done_bytes > 120_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(parts=("dit",), on_progress=stop)
    assert not (tmp_path / "to" / "dit.safetensors").exists()
    hub.seen.clear()
    folder = fetch(parts=("dit",))
    ((name, begin),) = hub.downloads()
    assert name == "dit.safetensors"
    assert begin is not None
    assert int(begin.removeprefix("bytes=").removesuffix("-")) > 100_000
    assert (folder / "dit.safetensors").read_bytes() == BIG
    assert not list((folder / ".mochi").glob("*.part"))


def test_a_connection_that_keeps_breaking_is_one_line_and_resumes_later(
    hub: Any, fetch: Callable[..., Path], tmp_path: Path, waits: list[float]
):
    hub.cuts = [1000, 0, 0, 0]
    says = refusal(fetch, parts=("dit",))
    assert says.startswith("owner/model: the hub went away (")
    assert says.endswith("what arrived is kept, run it again")
    assert waits == [1, 2]
    assert set(contents(tmp_path / "to")) == {"README.md"}
    hub.cuts, hub.seen[:] = [], []
    plans: list[DownloadPlan] = []
    fetch(parts=("dit",), on_plan=plans.append)
    assert plans[0].missing_bytes == len(BIG) - 1000
    assert hub.downloads() == [("dit.safetensors", "bytes=1000-")]


def test_a_server_without_ranges_sends_everything_again(hub: Any, fetch: Callable[..., Path]):
    hub.cuts = [100_000]
    hub.ignore_range = True
    assert (fetch(parts=("dit",)) / "dit.safetensors").read_bytes() == BIG


def test_a_damaged_partial_file_is_started_afresh(
    hub: Any, fetch: Callable[..., Path], tmp_path: Path
):
    hub.cuts = [100_000, 0, 0, 0]
    refusal(fetch, parts=("dit",))
    (part,) = (tmp_path / "to" / ".mochi").glob("*.part")
    part.write_bytes(b"?" + part.read_bytes()[1:])
    hub.cuts = []
    assert (fetch(parts=("dit",)) / "dit.safetensors").read_bytes() == BIG


@pytest.mark.parametrize("length", [len(BIG), len(BIG) + 5])
def test_a_partial_file_that_is_whole_or_too_long(
    hub: Any, fetch: Callable[..., Path], tmp_path: Path, length: int
):
    hub.cuts = [100_000, 0, 0, 0]
    refusal(fetch, parts=("dit",))
    (part,) = (tmp_path / "to" / ".mochi").glob("*.part")
    part.write_bytes((BIG + bytes(5))[:length])
    hub.cuts, hub.seen[:] = [], []
    assert (fetch(parts=("dit",)) / "dit.safetensors").read_bytes() == BIG
    assert len(hub.downloads()) == (0 if length == len(BIG) else 1)


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(
    hub: Any, fetch: Callable[..., Path], tmp_path: Path
):
    hub.corrupt = True
    says = refusal(fetch, parts=("dit",))
    assert "README.md has another checksum" in says
    hub.files = {"dit.safetensors": BIG, "decoder.safetensors": b"d"}
    assert "dit.safetensors has another checksum" in refusal(fetch, parts=("dit",))
    assert not contents(tmp_path / "to")
    assert not list((tmp_path / "to" / ".mochi").glob("*.part"))


def test_an_empty_file_is_a_file(hub: Any, fetch: Callable[..., Path]):
    hub.files["tokenizer/empty.txt"] = b""
    assert (fetch() / "tokenizer" / "empty.txt").read_bytes() == b""


def test_large_files_come_from_storage_without_the_token(hub: Any, fetch: Callable[..., Path]):
    hub.redirect = hub.endpoint.replace("127.0.0.1", "localhost")  # another host for HTTP
    fetch(parts=("dit",), token="secret")
    stored = [seen for seen in hub.seen if seen.path.startswith("/storage")]
    asked = [seen for seen in hub.seen if seen not in stored]
    assert stored
    assert all("authorization" not in seen.headers for seen in stored)
    assert all(seen.headers["authorization"] == "Bearer secret" for seen in asked)


# -------------------------------------------------------------------------------------- refusals


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
