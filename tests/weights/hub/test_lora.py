"""Adapters from a hub: the right files, once; what is unclear is said."""

from pathlib import Path

import pytest
from tests.weights.hub.conftest import FakeHub

from mochi.core.errors import DownloadError, RequestError
from mochi.pipeline.models import Hub, find_lora
from mochi.weights.hub_lora import choose_lora, fetch_lora, hub_lora_name

FILE = "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/name/sub/a.safetensors", ("owner/name", "sub/a.safetensors")),
        ("a.safetensors", None),
        ("/owner/name", None),
        ("./owner/name", None),
        ("../name/x", None),
        ("owner/name/", None),
        ("C:\\a\\b", None),
    ],
)
def test_names_on_the_hub(text: str, name: tuple[str, str | None] | None) -> None:
    assert hub_lora_name(text) == name


@pytest.mark.parametrize(
    ("names", "file", "chosen"),
    [
        ([FILE, "other.safetensors", "README.md", "x.png"], None, ["README.md", FILE]),
        (["only.safetensors", "LICENSE"], None, ["LICENSE", "only.safetensors"]),
        (
            ["a/adapter_config.json", "a/w.safetensors", "b.safetensors"],
            "a/w.safetensors",
            ["a/adapter_config.json", "a/w.safetensors"],
        ),
    ],
)
def test_which_files_are_fetched(names: list[str], file: str | None, chosen: list[str]) -> None:
    assert choose_lora("owner/name", names, file) == chosen


@pytest.mark.parametrize(
    ("names", "file", "says"),
    [
        (["a.safetensors", "b.safetensors"], None, r"no single adapter; .* a\.safetensors, b"),
        (["a.bin"], None, r"no \.safetensors; its files: none"),
        (["a.safetensors"], "b.safetensors", r"has no b\.safetensors; its files: a\.safetensors"),
    ],
)
def test_what_is_unclear_is_said(names: list[str], file: str | None, says: str) -> None:
    with pytest.raises(DownloadError, match=says):
        choose_lora("owner/name", names, file)


@pytest.fixture
def adapters(hub: FakeHub) -> FakeHub:
    """A hub with two adapters in one repository."""
    hub.files = {
        "README.md": b"made with care",
        FILE: b"1" * 2000,
        "other.safetensors": b"2" * 3000,
    }
    return hub


def test_fetched_once_with_its_licence_said_then_found_without_the_network(
    adapters: FakeHub, tmp_path: Path
) -> None:
    said: list[str] = []
    options = Hub(endpoint=adapters.endpoint, cache=tmp_path)
    path, source = find_lora("owner/model", options, lambda event: said.append(str(event)))
    assert path.read_bytes() == adapters.files[FILE]
    assert source == "owner/model"
    assert "licence apache-2.0" in said[0]
    assert {name for name, _ in adapters.downloads()} == {"README.md", FILE}
    adapters.seen.clear()
    assert find_lora("owner/model", options)[0] == path
    assert adapters.seen == []
    other, source = find_lora("owner/model/other.safetensors", options)
    assert other.read_bytes() == adapters.files["other.safetensors"]
    assert source == "owner/model/other.safetensors"


def test_no_path_leads_out_of_the_cache(adapters: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    with pytest.raises(DownloadError):
        fetch_lora(
            "owner/model",
            "../../../secret.safetensors",
            endpoint=adapters.endpoint,
            cache=tmp_path,
        )


def test_a_hub_that_does_not_have_it(adapters: FakeHub, tmp_path: Path) -> None:
    adapters.statuses["api"] = [404]
    with pytest.raises(DownloadError, match=r"owner/none is no file here, and the hub says"):
        find_lora("owner/none", Hub(endpoint=adapters.endpoint, cache=tmp_path))


@pytest.mark.parametrize(
    "given", ["none.safetensors", "folder/none.safetensors", "./none", "/no/such/file", "", "a\0b"]
)
def test_what_is_no_path_and_no_name_asks_no_hub(given: str) -> None:
    with pytest.raises(RequestError, match="lora="):
        find_lora(given, Hub(endpoint="http://127.0.0.1:9"))


def test_a_path_in_a_folder_that_is_here_is_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loras" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="no file, no folder"):
        find_lora("loras/mine/typo.safetensors", Hub(endpoint="http://127.0.0.1:9"))
