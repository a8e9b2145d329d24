"""Downloads from a local hub: whole, resumed, checked, and refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tests.weights.hub.repository import BIG, REPOSITORY, WANTED, contents, refusal

from mochi.weights.hub import DownloadPlan, DownloadProgress, find_cached
from mochi.weights.verify import verify

# ----------------------------------------------------------------------------------------- all well


def test_the_files_of_a_model_arrive_and_nothing_else(fetch: Callable[..., Path]):
    folder = fetch()
    assert contents(folder) == {name: REPOSITORY[name] for name in WANTED}
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
