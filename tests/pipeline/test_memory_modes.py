"""The same video in every memory mode, and what is in memory on the way."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.weights.lora.conftest import is_attention, kwargs, pairs_for

import mochi
from mochi.core.errors import RequestError, WeightsError
from mochi.core.events import Event, Notice, PhaseStarted
from mochi.memory.modes import MODES
from mochi.pipeline.parts import PartName
from mochi.weights.convert import Wishes, plan_conversion
from mochi.weights.lora_read import layer_sizes
from mochi.weights.source import open_path

PROMPT = "a red circle moves left on a black background"
SMALLER = MODES[1:]
PARTS: tuple[PartName, ...] = ("text", "dit", "decoder")


def frames(model: Path, memory: str, **options: object) -> np.ndarray:
    pipe = mochi.load(str(model), device="cpu", memory=memory, **options)
    return pipe.generate(PROMPT, seed=0, negative_prompt="blue").frames


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_every_mode_makes_the_same_frames(tiny_model: Path, dtype: str) -> None:
    expected = frames(tiny_model, "high", dtype=dtype)
    for memory in (*SMALLER, "auto"):
        assert np.array_equal(frames(tiny_model, memory, dtype=dtype), expected), memory


@pytest.mark.parametrize(
    "wishes", [Wishes("diffusers"), Wishes("original", quantize="q8_0")], ids=["pieces", "q8_0"]
)
def test_weights_in_pieces_and_quantised_ones(
    tiny_model: Path, tmp_path: Path, wishes: Wishes
) -> None:
    plan_conversion(open_path(tiny_model).source, tmp_path / "model", wishes).write()
    expected = frames(tmp_path / "model", "high")
    for memory in SMALLER:
        assert np.array_equal(frames(tmp_path / "model", memory), expected), memory
    if wishes.quantize:
        decoded = frames(tmp_path / "model", "low", dequantize=True)
        assert np.array_equal(decoded, frames(tmp_path / "model", "high", dequantize=True))


@pytest.mark.parametrize("mode", ["live", "merged"])
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_adapters_in_every_mode(tiny_model: Path, tmp_path: Path, mode: str, layout: str) -> None:
    model = tiny_model
    if layout != "original":
        model = tmp_path / "model"
        plan_conversion(open_path(tiny_model).source, model, Wishes(layout)).write()
    sizes = layer_sizes(mochi.load(str(tiny_model)).parts.dit())
    lora = tmp_path / "style.safetensors"
    save_file(pairs_for(sizes, which=is_attention, seed=0), lora, metadata=kwargs(4, 8))
    expected = frames(model, "high", loras=[lora], lora_mode=mode)
    assert not np.array_equal(expected, frames(model, "high"))
    for memory in SMALLER:
        found = frames(model, memory, loras=[lora], lora_mode=mode)
        assert np.array_equal(found, expected), memory


@pytest.mark.parametrize("memory", SMALLER)
def test_networks_are_there_only_while_they_are_used(tiny_model: Path, memory: str) -> None:
    pipe = mochi.load(str(tiny_model), memory=memory)
    held: dict[str, list[str]] = {}

    def listen(event: Event) -> None:
        if isinstance(event, PhaseStarted):
            held[event.phase] = [name for name in PARTS if pipe.parts.is_loaded(name)]

    pipe.generate(PROMPT, seed=0, on_event=listen)
    assert held == {"text": [], "load": [], "denoise": ["dit"], "decode": []}
    assert not any(pipe.parts.is_loaded(name) for name in PARTS)


def test_high_keeps_everything(tiny_model: Path) -> None:
    pipe = mochi.load(str(tiny_model), memory="high")
    pipe.generate(PROMPT, seed=0)
    assert all(pipe.parts.is_loaded(name) for name in PARTS)


def test_the_choice_is_announced_once(tiny_model: Path) -> None:
    pipe, heard = mochi.load(str(tiny_model)), []
    for _ in range(2):
        pipe.generate(PROMPT, seed=0, on_event=heard.append)
    lines = [it.message for it in heard if isinstance(it, Notice) and "memory" in it.message]
    assert len(lines) == 1
    assert lines[0].startswith("memory: high; at most")


@pytest.mark.parametrize("memory", SMALLER)
@pytest.mark.parametrize("name", ["blocks.1.mlp_x.w1.weight", "blocks.0.mod_x.bias"])
def test_a_weight_that_is_no_number_is_found_in_every_mode(
    tiny_model: Path, tmp_path: Path, memory: str, name: str
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    state = load_file(model / "dit.safetensors")
    state[name].view(-1)[3] = torch.nan
    save_file(state, model / "dit.safetensors")
    with pytest.raises(WeightsError, match=f"1 of .* values of {name}") as caught:
        frames(model, memory)
    assert "dit.safetensors" in str(caught.value)


def test_an_unknown_mode_lists_those_there_are() -> None:
    with pytest.raises(RequestError, match="auto, high, balanced, low, minimal"):
        mochi.load("nano", memory="tiny")


def test_a_plan_is_made_without_loading(tiny_model: Path) -> None:
    pipe = mochi.load(str(tiny_model))
    plan = pipe.plan(PROMPT)
    assert [need.stage for need in plan.needs] == ["text", "denoise", "decode"]
    assert plan.fits
    plans = pipe.plans(PROMPT, frames=25)
    assert list(plans) == ["auto", *MODES]
    assert plans["auto"].mode == "high"
    for mode in MODES:
        assert plans[mode].mode == mode
        assert plans[mode].size.frames == 25
    assert plans["high"].device_bytes >= plans["balanced"].device_bytes
    assert not any(pipe.parts.is_loaded(name) for name in PARTS)


def test_products_in_8_bits_need_the_whole_transformer(tiny_model: Path) -> None:
    pipe = mochi.load(str(tiny_model), products="int8")
    assert {need.mode for need in pipe.plan(PROMPT).needs} == {"high"}
