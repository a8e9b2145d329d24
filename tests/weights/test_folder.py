"""The files of a model are found, and what is not there is said."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mochi.core.errors import WeightsError
from mochi.weights.folder import ModelFiles, component_files, shards
from mochi.weights.variants import WeightName, choose, parse

STEM = "diffusion_pytorch_model"


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(original, folder)
    for name in ("text_encoder", "tokenizer"):
        (folder / name).mkdir()
    save_file({"shared.weight": torch.zeros(3)}, folder / "text_encoder" / "model.safetensors")
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    return folder


def test_original_files_are_found(model: Path):
    (model / "mochi.json").write_text("{}")
    files = ModelFiles.find(str(model))
    assert files.layout == "original"
    assert files.dit == (model / "dit.safetensors",)
    assert files.part("decoder") == (model / "decoder.safetensors",)
    assert files.part("encoder") == (model / "encoder.safetensors",)
    assert files.text_parts() == (model / "text_encoder", model / "tokenizer")
    assert files.card == model / "mochi.json"


def test_only_what_is_needed_must_be_there(model: Path):
    (model / "encoder.safetensors").unlink()
    shutil.rmtree(model / "tokenizer")
    files = ModelFiles.find(model)
    assert files.card is None
    with pytest.raises(WeightsError, match=r"no encoder\.safetensors"):
        files.part("encoder")
    with pytest.raises(WeightsError, match=r"no folder tokenizer; put .* weights download"):
        files.text_parts()


def test_original_files_go_before_a_diffusers_folder(model: Path):
    for name in ("transformer", "vae"):
        (model / name).mkdir()
    assert ModelFiles.find(model).layout == "original"


def test_no_model_says_what_was_looked_for(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "vae").mkdir()
    with pytest.raises(
        WeightsError, match=r"dit\.safetensors and decoder\.safetensors, .*found notes\.txt, vae/"
    ):
        ModelFiles.find(tmp_path)


def test_paths_that_are_no_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, says in (("file", "is a file"), ("none", "does not exist"), ("loop", "loop")):
        with pytest.raises(WeightsError, match=says):
            ModelFiles.find(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{STEM}.safetensors", WeightName(STEM, "")),
        (f"{STEM}.fp16.safetensors", WeightName(STEM, "fp16")),
        (f"{STEM}-00001-of-00009.safetensors", WeightName(STEM, "", is_shard=True)),
        (f"{STEM}.bf16-00001-of-00009.safetensors", WeightName(STEM, "bf16", is_shard=True)),
        (f"{STEM}.safetensors.index.json", WeightName(STEM, "", is_index=True)),
        (f"{STEM}.safetensors.index.bf16.json", WeightName(STEM, "bf16", is_index=True)),
        (f"{STEM}.bf16.safetensors.index.json", WeightName(STEM, "bf16", is_index=True)),
        ("model.bf16-00001-of-00002.safetensors", WeightName("model", "bf16", is_shard=True)),
        ("config.json", None),
        ("model.bin", None),
        ("a/model.safetensors", None),
    ],
)
def test_file_names_in_the_hugging_face_manner(name: str, expected: WeightName | None):
    assert parse(name) == expected


def test_the_variant_that_is_taken():
    both = ["m.safetensors", "m.fp16.safetensors"]
    assert choose(both, None) == ""
    assert choose(both, "fp16") == "fp16"
    assert choose(both, "bf16") == ""
    assert choose(both, "bf16", fall_back=False) is None
    assert choose(["m.fp16.safetensors", "m.bf16.safetensors"], None) == "bf16"
    assert choose(["config.json"], None) is None


def test_a_component_without_weights_or_without_the_variant(tmp_path: Path):
    with pytest.raises(WeightsError, match=f"holds no {STEM}.safetensors .*found nothing"):
        component_files(tmp_path)
    (tmp_path / f"{STEM}.safetensors").touch()
    with pytest.raises(WeightsError, match=rf"holds no {STEM}\.fp16\.safetensors"):
        component_files(tmp_path, "fp16")
    assert component_files(tmp_path, "fp16", fall_back=True) == (tmp_path / f"{STEM}.safetensors",)


def write_index(folder: Path, content: object) -> Path:
    path = folder / f"{STEM}.safetensors.index.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_shards_come_in_order_and_must_all_be_there(tmp_path: Path):
    weight_map = {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}
    index = write_index(tmp_path, {"weight_map": weight_map})
    (tmp_path / "1.safetensors").touch()
    with pytest.raises(WeightsError, match=r"names the shard 2\.safetensors, which is missing"):
        shards(index)
    (tmp_path / "2.safetensors").touch()
    assert [path.name for path in shards(index)] == ["1.safetensors", "2.safetensors"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "no weight_map"),
        ("[" * 100_000, "no weight_map"),
        ([1], "no weight_map"),
        ({"weight_map": 3}, "no weight_map"),
        ({"weight_map": {}}, "names no shards"),
        ({"weight_map": {"a": "../../etc/passwd"}}, "outside its folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "outside its folder"),
        ({"weight_map": {"a": ".."}}, "outside its folder"),
        ({"weight_map": {"a": "\0"}}, "missing"),
    ],
)
def test_hostile_indices_are_refused(tmp_path: Path, content: object, says: str):
    with pytest.raises(WeightsError, match=says):
        shards(write_index(tmp_path, content))
    with pytest.raises(WeightsError, match="cannot be read"):
        shards(tmp_path / "none.json")


def test_the_fingerprint_is_of_the_weights_not_of_the_place(model: Path, tmp_path: Path):
    first = ModelFiles.find(model).fingerprint()
    assert len(first) == 64
    moved = model.rename(tmp_path / "elsewhere")
    (moved / "README.md").write_text("text")
    assert ModelFiles.find(moved).fingerprint() == first


@pytest.mark.parametrize(
    "file", ["dit", "decoder", "encoder", "text_encoder/model", "tokenizer/tokenizer.json"]
)
def test_the_fingerprint_sees_every_part(model: Path, file: str):
    before = ModelFiles.find(model).fingerprint()
    path = model / (file if file.endswith("json") else f"{file}.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert ModelFiles.find(model).fingerprint() != before


def test_the_fingerprint_samples_large_files(model: Path):
    """Both ends and the header count; a fingerprint of 40 GB must not read 40 GB."""
    path = model / "dit.safetensors"
    with path.open("ab") as file:
        file.truncate(3_000_000_000)  # a hole: no disk is used
    before = ModelFiles.find(model).fingerprint()
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    assert ModelFiles.find(model).fingerprint() != before
