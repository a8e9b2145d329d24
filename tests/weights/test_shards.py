"""Checkpoints in pieces: counted, indexed, and missing."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.weights.marked import State

from mochi.core.errors import WeightsError
from mochi.weights.folder import part_files
from mochi.weights.loading import load_dit
from mochi.weights.shards import shards

STEM = "diffusion_pytorch_model"


def split(state: State, folder: Path, names: list[str]) -> None:
    keys = sorted(state)
    for index, name in enumerate(names):
        save_file({key: state[key] for key in keys[index :: len(names)]}, folder / name)


def test_shards_without_an_index_are_counted(states: dict[str, State], tmp_path: Path):
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    split(states["dit"], tmp_path, names)
    assert [path.name for path in part_files("dit", tmp_path)] == names
    assert load_dit(tmp_path).state_dict().keys() == states["dit"].keys()
    (tmp_path / names[1]).unlink()
    with pytest.raises(WeightsError, match="one of 3 shards, of which number 2 is missing"):
        part_files("dit", tmp_path)


def test_the_oddly_named_index_of_a_variant(states: dict[str, State], tmp_path: Path):
    names = [f"{STEM}.bf16-0000{number}-of-00002.safetensors" for number in (1, 2)]
    split(states["dit"], tmp_path, names)
    where = {key: names[0] if key in load_file(tmp_path / names[0]) else names[1]
             for key in states["dit"]}  # fmt: skip
    index = tmp_path / f"{STEM}.safetensors.index.bf16.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert len(part_files("dit", tmp_path)) == 2
    assert load_dit(index).state_dict().keys() == states["dit"].keys()
    (tmp_path / names[1]).unlink()
    with pytest.raises(WeightsError, match=rf"names the shard {names[1]}, which is missing"):
        part_files("dit", tmp_path)


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
