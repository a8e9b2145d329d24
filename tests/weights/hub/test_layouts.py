"""Repositories as people lay them out, found by name, fetched with what is needed and no more."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save
from tests.weights.marked import State, fp8_scaled

from mochi.core.errors import DownloadError, RequestError, WeightsError
from mochi.core.events import Event, Notice
from mochi.pipeline.given import PartNames
from mochi.pipeline.models import Hub, find_model, find_place, nano_folder
from mochi.pipeline.places import HubName, hub_name
from mochi.weights.hub_files import select

VOCABULARY = {"spiece.model": b"pieces", "tokenizer_config.json": b"{}"}
SPLIT = "split_files/"


@pytest.fixture
def here(hub: Any, tmp_path: Path) -> Hub:
    return Hub(endpoint=hub.endpoint, cache=tmp_path / "cache", token="none")


@pytest.fixture(scope="module")
def files(states: dict[str, State]) -> dict[str, bytes]:
    """Whole files, by what ComfyUI's repackaged repository calls them."""
    vae = {
        f"{part}.{name}": tensor
        for part in ("decoder", "encoder")
        for name, tensor in states[part].items()
    }
    small = fp8_scaled(states["dit"], "old").tensors
    return {
        "README.md": b"# A model",
        f"{SPLIT}diffusion_models/mochi_preview_bf16.safetensors": save(states["dit"]),
        f"{SPLIT}diffusion_models/mochi_preview_fp8_scaled.safetensors": save(small),
        f"{SPLIT}vae/mochi_vae.safetensors": save(vae),
        f"{SPLIT}text_encoders/t5xxl_fp16.safetensors": b"not fetched in these tests",
        f"{SPLIT}text_encoders/t5xxl_fp8_e4m3fn_scaled.safetensors": b"nor this",
        "example.png": b"a picture",
    }


def fetched(hub: Any) -> set[str]:
    return {name.rpartition("/")[2] for name, _ in hub.downloads()}


def test_comfyui_repositories_give_one_file_for_each_part(files: dict[str, bytes]):
    parts = ("dit", "decoder", "encoder", "text_encoder", "tokenizer")
    chosen = select(sorted(files), parts)
    assert {part: [n.rpartition("/")[2] for n in names] for part, names in chosen.items()} == {
        "": ["README.md"],
        "dit": ["mochi_preview_bf16.safetensors"],
        "decoder": ["mochi_vae.safetensors"],
        "encoder": ["mochi_vae.safetensors"],
        "text_encoder": ["t5xxl_fp16.safetensors"],
        "tokenizer": [],
    }
    small = select(sorted(files), ("dit", "text_encoder"), "fp8")
    assert small["dit"] == [f"{SPLIT}diffusion_models/mochi_preview_fp8_scaled.safetensors"]
    assert small["text_encoder"][0].endswith("t5xxl_fp8_e4m3fn_scaled.safetensors")


def test_a_repository_of_a_text_encoder_alone():
    names = ["README.md", "config.json", "model.safetensors", "model.fp16.safetensors", "x.gguf"]
    chosen = select(names, ("dit", "text_encoder"))
    assert chosen["dit"] == []
    assert chosen["text_encoder"] == ["config.json", "model.safetensors"]
    assert select(names, ("text_encoder",), "fp16")["text_encoder"][1] == names[3]
    assert select([*names, "dit.safetensors"], ("text_encoder",))["text_encoder"] == []


def test_a_repository_of_many_files_says_to_name_one(hub: Any, here: Hub):
    hub.files = {"mochi-q4_0.gguf": b"x", "mochi-q8_0.gguf": b"y", "README.md": b"#"}
    says = r"name one of its files, owner/model/FILE: mochi-q4_0\.gguf, mochi-q8_0\.gguf"
    with pytest.raises(DownloadError, match=says):
        find_model("owner/model", here)


def test_a_comfyui_repository_is_a_model(
    hub: Any, here: Hub, files: dict[str, bytes], tmp_path: Path
):
    hub.files = files
    heard: list[Event] = []
    vocabulary = tmp_path / "tokenizer"
    vocabulary.mkdir()
    (vocabulary / "spiece.model").write_bytes(b"x")
    parts = PartNames.of(tokenizer=vocabulary)
    found = find_model("owner/model", here, heard.append, parts)
    assert found.dit[0].name == "mochi_preview_bf16.safetensors"
    assert found.tokenizer == vocabulary
    assert "example.png" not in fetched(hub)
    said = [event.message for event in heard if isinstance(event, Notice)]
    assert "licence apache-2.0" in said[0]
    assert "GB" in said[0] or "MB" in said[0]
    assert said[-1].startswith(
        "owner/model: dit in split_files/diffusion_models/mochi_preview_bf16"
    )
    hub.seen.clear()
    assert find_model("owner/model", here).dit == found.dit  # cached: the hub is not asked
    assert not hub.seen


@pytest.mark.parametrize("separator", [":", "/"])
def test_one_file_of_a_repository(
    hub: Any, here: Hub, files: dict[str, bytes], original: Path, separator: str
):
    hub.files = files
    name = f"{SPLIT}diffusion_models/mochi_preview_fp8_scaled.safetensors"
    parts = PartNames.of(dit=f"owner/model{separator}{name}", vae=original)
    found = find_model(None, here, parts=parts)
    assert fetched(hub) == {"README.md", "mochi_preview_fp8_scaled.safetensors"}
    assert "fp8_scaled (old marking)" in found.description
    assert found.part("encoder") == (original / "encoder.safetensors",)
    hub.seen.clear()
    assert find_model(None, here, parts=parts).dit == found.dit
    assert not hub.seen


def test_parts_are_fetched_alone(hub: Any, here: Hub, files: dict[str, bytes], original: Path):
    hub.files = files
    parts = PartNames.of(dit=original / "dit.safetensors", vae="owner/model")
    found = find_model(None, here, parts=parts)
    assert found.part("decoder")[0].name == "mochi_vae.safetensors"
    assert fetched(hub) == {"README.md", "mochi_vae.safetensors"}


def test_distilled_weights_alone_say_what_they_lack_before_a_byte(
    hub: Any, here: Hub, states: dict[str, State], original: Path
):
    hub.files = {"dit.safetensors": save(states["dit"])}
    with pytest.raises(DownloadError, match=r"has no decoder; name one with --vae"):
        find_model("owner/model", here)
    assert not hub.downloads()
    found = find_model("owner/model", here, parts=PartNames.of(vae=original))
    assert found.dit[0].name == "dit.safetensors"
    assert found.part("decoder") == (original / "decoder.safetensors",)


def test_a_place_need_hold_no_whole_model(hub: Any, here: Hub, files: dict[str, bytes]):
    hub.files = files
    name = f"{SPLIT}vae/mochi_vae.safetensors"
    assert find_place(f"owner/model:{name}", here).name == "mochi_vae.safetensors"
    hub.files = {name: files[name], "README.md": b""}
    assert (find_place("owner/model", here) / name).is_file()
    assert find_place("nano") == nano_folder()
    with pytest.raises(RequestError, match="neither a folder nor a name on the hub"):
        find_place("./nowhere", here)


@pytest.mark.parametrize("place", ["", "tokenizer/"])
def test_a_tokenizer_of_a_repository(hub: Any, here: Hub, original: Path, place: str):
    hub.files = {f"{place}{name}": content for name, content in VOCABULARY.items()}
    hub.files |= {"pytorch_model.bin": b"large", "README.md": b"# T5"}
    parts = PartNames.of(tokenizer="owner/model")
    found = find_model(str(original), here, parts=parts)
    assert (found.tokenizer_folder() / "spiece.model").read_bytes() == b"pieces"
    assert "pytorch_model.bin" not in fetched(hub)
    hub.seen.clear()
    assert find_model(str(original), here, parts=parts).tokenizer == found.tokenizer
    assert not hub.seen


def test_what_a_repository_lacks_is_said(hub: Any, here: Hub, original: Path):
    hub.files = {"README.md": b"# nothing"}
    for parts, says in (
        (PartNames.of(tokenizer="owner/model"), "has no tokenizer"),
        (PartNames.of(vae="owner/model:x.safetensors"), r"has no x\.safetensors"),
        (PartNames.of(vae="owner/model"), "has no decoder or encoder"),
        (PartNames.of(text_encoder="owner/model"), "has no text_encoder"),
    ):
        with pytest.raises(DownloadError, match=says) as caught:
            find_model(str(original), here, parts=parts)
        assert "\n" not in str(caught.value)


def test_parts_that_are_neither_here_nor_names(here: Hub, original: Path, tmp_path: Path):
    for field in ("dit", "vae", "text_encoder", "tokenizer"):
        with pytest.raises(RequestError, match=field):
            find_model(str(original), here, parts=PartNames.of(**{field: "./no/such/thing"}))
    with pytest.raises(WeightsError, match=r"holds no tokenizer\.json"):
        find_model(str(original), here, parts=PartNames.of(tokenizer=tmp_path))
    parts = PartNames.of(vae=original / "dit.safetensors")
    with pytest.raises(WeightsError, match="holds nothing of a Mochi decoder"):
        find_model(str(original), here, parts=parts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", HubName("owner/name", None)),
        ("owner/name:file", HubName("owner/name", "file")),
        ("owner/name:a/b.gguf", HubName("owner/name", "a/b.gguf")),
        ("owner/name/a/b.gguf", HubName("owner/name", "a/b.gguf")),
        ("owner/name/folder", None),
        ("folder/dit.safetensors", None),
        ("./owner/name", None),
        ("owner/name:../x", None),
        ("owner/name:", None),
        ("name", None),
        ("", None),
    ],
)
def test_names_on_the_hub(text: str, expected: HubName | None):
    assert hub_name(text) == expected
