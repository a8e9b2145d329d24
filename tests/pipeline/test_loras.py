"""Adapters on a pipeline: frames change, and are bit for bit the same again without them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.weights.lora.conftest import is_attention, kwargs, pairs_for

import mochi
from mochi.core.errors import RequestError, WeightsError
from mochi.core.events import Event, Notice
from mochi.model.layers import Linear
from mochi.pipeline.pipeline import Pipeline
from mochi.video.metadata import read_request
from mochi.weights.lora import Lora
from mochi.weights.lora_read import layer_sizes, read_lora
from mochi.weights.lora_write import TARGETS, save_lora

PROMPT = "a red circle moves left on a black background"


def make_lora(
    pipe: Pipeline, path: Path, seed: int = 0, which: Callable[[str], bool] = is_attention
) -> Path:
    """A random adapter, strong enough to be seen."""
    state = pairs_for(layer_sizes(pipe.parts.dit()), which=which, seed=seed)
    save_file({k: v * 2 for k, v in state.items()}, path, metadata=kwargs(4, 8))
    return path


@pytest.fixture
def lora(pipe: Pipeline, tmp_path: Path) -> Path:
    return make_lora(pipe, tmp_path / "style.safetensors")


@pytest.fixture(autouse=True)
def _bare(pipe: Pipeline) -> None:
    pipe.clear_loras()


def frames(pipe: Pipeline) -> np.ndarray:
    return pipe.generate(PROMPT, seed=0).frames


def latents(pipe: Pipeline) -> torch.Tensor:
    return pipe.generate(PROMPT, seed=0).latents.latent.tensor


@pytest.mark.parametrize("mode", ["live", "merged"])
def test_on_and_off_again(pipe: Pipeline, lora: Path, mode: str) -> None:
    before = frames(pipe)
    worn = pipe.add_lora(lora, 0.8, mode=mode)
    assert (worn.name, worn.scale, worn.mode) == ("style", 0.8, mode)
    assert pipe.loras == (worn,)
    assert not np.array_equal(frames(pipe), before)
    pipe.remove_lora("style")
    assert pipe.loras == ()
    assert np.array_equal(frames(pipe), before)


def test_live_merged_and_converted_are_the_same(pipe: Pipeline, lora: Path, tmp_path: Path) -> None:
    pipe.add_lora(lora, 0.8)
    live = latents(pipe)
    for mode in ("live", "merged"):
        for target in TARGETS:
            path = tmp_path / f"{target}.safetensors"
            save_lora(read_lora(lora), path, target, overwrite=True)
            pipe.clear_loras()
            pipe.add_lora(path, 0.8, mode=mode)
            assert torch.allclose(latents(pipe), live, rtol=1e-4, atol=1e-4)


def test_they_are_part_of_the_pipeline_not_of_the_loaded_network(
    pipe: Pipeline, lora: Path, tiny_model: Path
) -> None:
    pipe.add_lora(lora, 0.5)
    expected = frames(pipe)
    pipe.parts.release("dit")
    assert np.array_equal(frames(pipe), expected)
    fresh = mochi.load(str(tiny_model), device="cpu", loras=[(lora, 0.5)])
    assert not fresh.parts.is_loaded("dit")
    assert [worn.name for worn in fresh.loras] == ["style"]
    assert np.array_equal(frames(fresh), expected)
    fresh.parts.release("dit")
    fresh.set_lora_scale("style", 0.0)  # while nothing is loaded
    pipe.clear_loras()
    assert np.array_equal(frames(fresh), frames(pipe))


def test_several_with_scales_that_change(pipe: Pipeline, lora: Path, tmp_path: Path) -> None:
    other = make_lora(pipe, tmp_path / "other.safetensors", seed=1, which=lambda layer: True)
    pipe.add_lora(lora, 0.5)
    alone = latents(pipe)
    pipe.add_lora(other, -0.25, name="mine", mode="merged")
    both = latents(pipe)
    assert not torch.allclose(both, alone, rtol=1e-3, atol=1e-3)
    pipe.set_lora_scale("mine", 0.0)
    assert torch.equal(latents(pipe), alone)
    pipe.set_lora_scale("mine", -0.25)
    assert torch.equal(latents(pipe), both)
    assert [(worn.name, worn.scale) for worn in pipe.loras] == [("style", 0.5), ("mine", -0.25)]
    pipe.remove_lora("style")
    pipe.add_lora(lora, 0.5)
    assert torch.allclose(latents(pipe), both, rtol=1e-4, atol=1e-4)


def test_what_is_said_to_load(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    given = [f"{lora}:0.5", lora, (str(lora), 0.5)]
    for each in given:
        pipe = mochi.load(str(tiny_model), loras=[each], lora_mode="merged", on_event=said.append)
        assert [(worn.scale, worn.mode) for worn in pipe.loras] == [
            (1.0 if each is lora else 0.5, "merged")
        ]
    notices = [event.message for event in said if isinstance(event, Notice)]
    assert any("style: merged: " in note and "MB more for 7 layers" in note for note in notices)


def test_a_video_names_its_adapters(pipe: Pipeline, lora: Path, tmp_path: Path) -> None:
    import hashlib

    pipe.add_lora(lora, 0.8)
    pipe.generate_to(tmp_path / "a.gif", PROMPT, seed=0)
    (entry,) = read_request(tmp_path / "a.gif")["loras"]
    digest = hashlib.sha256(lora.read_bytes()).hexdigest()
    assert entry == {"file": "style.safetensors", "sha256": digest, "scale": 0.8, "mode": "live"}
    assert str(tmp_path) not in json.dumps(entry)
    pipe.clear_loras()
    assert "loras" not in pipe.generate(PROMPT, seed=0).record


def test_refusals_change_nothing(pipe: Pipeline, lora: Path, tmp_path: Path) -> None:
    before = frames(pipe)
    pipe.add_lora(lora, name="mine")
    worn = frames(pipe)
    state = load_file(lora)
    save_file(state | {"blocks.9.mod_x.lora_A": torch.ones(1, 1)}, tmp_path / "foreign.safetensors")
    same = tmp_path / "copy.safetensors"
    same.write_bytes(lora.read_bytes())
    for words, error, says in (
        (("none.safetensors",), RequestError, "no file"),
        ((lora, float("nan")), RequestError, "no finite number"),
        ((lora, True), RequestError, "no finite number"),
        ((lora, 10**400), RequestError, "no finite number"),
        ((lora,), RequestError, "is on already, as 'mine'"),
        ((same,), RequestError, "is on already, as 'mine'"),
        ((tmp_path / "foreign.safetensors",), WeightsError, "has no lora_B"),
    ):
        with pytest.raises(error, match=says):
            pipe.add_lora(*words)
    other = make_lora(pipe, tmp_path / "other.safetensors", seed=1)
    for settings in ({"name": "mine"}, {"name": ""}, {"mode": "fused"}):
        with pytest.raises(RequestError):
            pipe.add_lora(other, **settings)
    for call in (pipe.remove_lora, lambda name: pipe.set_lora_scale(name, 1.0)):
        with pytest.raises(RequestError, match="name='yours' is no adapter in use; nearest: mine"):
            call("yours")
    assert [worn.name for worn in pipe.loras] == ["mine"]
    assert np.array_equal(frames(pipe), worn)
    pipe.clear_loras()
    assert np.array_equal(frames(pipe), before)


def test_a_bad_adapter_stops_the_load_before_any_weight_is_read(
    tiny_model: Path, tmp_path: Path
) -> None:
    save_file({"blocks.7.mod_x.lora_A": torch.ones(1, 1)}, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=r"fits no layer"):
        mochi.load(str(tiny_model), loras=[tmp_path / "bad.safetensors"])
    with pytest.raises(RequestError, match="lora_mode='fused' is unknown; nearest: live, merged"):
        mochi.load(str(tiny_model), lora_mode="fused")


def test_names_are_made_of_files_and_stay_apart(pipe: Pipeline, lora: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = make_lora(pipe, tmp_path / "more" / "style.safetensors", seed=1)
    assert pipe.add_lora(lora).name == "style"
    assert pipe.add_lora(other).name == "style-2"


def test_on_weights_that_are_kept_small(tiny_model: Path, lora: Path, tmp_path: Path) -> None:
    """float8 stays float8 under a live adapter; merging makes its layers dense, and says so."""
    model = small_copy(tiny_model, tmp_path / "float8")
    said: list[Event] = []
    pipe = mochi.load(str(model), device="cpu")
    bare = frames(pipe)
    pipe.add_lora(lora, 0.8)
    live = latents(pipe)
    small = pipe.parts.dit().blocks[0].attn.qkv_x.base
    pipe.clear_loras()
    pipe.add_lora(lora, 0.8, mode="merged", on_event=said.append)
    assert torch.allclose(latents(pipe), live, rtol=1e-4, atol=1e-4)
    assert type(pipe.parts.dit().blocks[0].attn.qkv_x) is Linear
    assert "7 quantised layers become dense" in str(said[-1])
    pipe.clear_loras()
    assert pipe.parts.dit().blocks[0].attn.qkv_x is small
    assert small.raw_data.dtype == torch.float8_e4m3fn
    assert np.array_equal(frames(pipe), bare)


def small_copy(model: Path, folder: Path) -> Path:
    import shutil

    shutil.copytree(model, folder)
    state = load_file(folder / "dit.safetensors")
    cast = {
        name: tensor.to(torch.float8_e4m3fn)
        if name.startswith("blocks.") and tensor.ndim == 2
        else tensor
        for name, tensor in state.items()
    }
    save_file(cast, folder / "dit.safetensors")
    return folder


@pytest.mark.parametrize(
    ("memory", "mode"), [("balanced", "merged"), ("low", "live"), ("minimal", "merged")]
)
def test_where_the_weights_pass_by_adapters_are_live(
    pipe: Pipeline, tiny_model: Path, tmp_path: Path, memory: str, mode: str
) -> None:
    lora = make_lora(pipe, tmp_path / "all.safetensors", which=lambda layer: True)
    pipe.add_lora(lora, 0.5)
    expected = pipe.generate(PROMPT, seed=0, frames=7, steps=2)
    small = mochi.load(
        str(tiny_model), device="cpu", memory=memory, loras=[(lora, 0.5)], lora_mode=mode
    )
    found = small.generate(PROMPT, seed=0, frames=7, steps=2, embeddings=expected.embeddings)
    assert np.array_equal(found.frames, expected.frames)


def test_nano_with_an_adapter_in_every_flavour_and_without_it_again(tmp_path: Path) -> None:
    nano = mochi.load("nano", device="cpu")
    short = nano.request(PROMPT, seed=0, frames=7, steps=2)
    lora = make_lora(nano, tmp_path / "style.safetensors")
    before = nano.generate(short)
    found = []
    for target in TARGETS:
        path = tmp_path / f"{target}.safetensors"
        save_lora(read_lora(lora), path, target)
        for mode in ("live", "merged"):
            worn = nano.add_lora(path, 0.8, mode=mode)
            found.append(nano.generate(short).latents.latent.tensor)
            nano.remove_lora(worn.name)
    assert all(torch.allclose(each, found[0], rtol=1e-4, atol=1e-4) for each in found)
    assert not torch.allclose(found[0], before.latents.latent.tensor, rtol=0.1, atol=0.1)
    after = nano.generate(short)
    assert np.array_equal(after.frames, before.frames)
    assert torch.equal(after.latents.latent.tensor, before.latents.latent.tensor)


def test_what_was_trained_on_a_pipeline_can_be_saved_and_put_on_again(
    pipe: Pipeline, lora: Path, tmp_path: Path
) -> None:
    pipe.add_lora(lora)
    expected = latents(pipe)
    layers = {
        name: [delta.factors() for delta in layer.deltas]
        for name, layer in pipe.parts.dit().named_modules()
        if hasattr(layer, "deltas")
    }
    pipe.clear_loras()
    save_lora(Lora.of_factors(layers), tmp_path / "again.safetensors", "diffusers")
    pipe.add_lora(tmp_path / "again.safetensors")
    assert torch.allclose(latents(pipe), expected, rtol=1e-4, atol=1e-4)
