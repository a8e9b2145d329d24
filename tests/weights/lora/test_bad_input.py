"""Adapters that do not fit: one error that lists what; nothing hangs, nothing runs."""

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from tests.weights.lora.conftest import DIT, kwargs, pairs_for, sizes_of

from mochi.core.config import DiTConfig
from mochi.core.errors import MochiError, WeightsError
from mochi.weights.lora_read import LayerSizes, read_lora, scan_lora
from mochi.weights.lora_scales import PeftScaling

Write = Callable[..., Path]
State = dict[str, torch.Tensor]


def refusal(path: Path, sizes: LayerSizes | None) -> str:
    with pytest.raises(WeightsError) as caught:
        read_lora(path, sizes)
    assert caught.value.path is not None
    return str(caught.value)


def test_all_that_is_wrong_is_in_one_error(write: Write, sizes: LayerSizes) -> None:
    state = pairs_for(sizes)
    state["blocks.0.attn.qkv_x.lora_A"] = torch.ones(4, 31)
    state["blocks.0.attn.qkv_y.lora_A"] = torch.ones(5, 24)
    state["blocks.0.attn.proj_x.lora_B"] = torch.full((32, 4), math.nan)
    del state["blocks.0.attn.proj_y.lora_B"]
    state |= {"blocks.9.attn.qkv_x.lora_A": torch.ones(4, 32)}
    state |= {"blocks.9.attn.qkv_x.lora_B": torch.ones(96, 4)}
    state |= {"blocks.0.attn.q_norm_x.lora_A": torch.ones(4, 16)}
    state |= {"blocks.0.attn.q_norm_x.lora_B": torch.ones(16, 4), "step": torch.ones(1)}
    message = refusal(write(state, kwargs()), sizes)
    for line in (
        "fits only in part: 7 of 13 layers fit",
        "blocks.0.attn.qkv_x is for 31 inputs and 96 outputs, not 32 and 96",
        "blocks.0.attn.qkv_y has two ranks",
        "blocks.0.attn.proj_x holds NaN or infinity",
        "blocks.0.attn.proj_y has no lora_B",
        "blocks.9.attn.qkv_x is no linear layer of this model",
        "blocks.0.attn.q_norm_x is no linear layer of this model",
        "step is no matrix of a LoRA",
    ):
        assert line in message


def test_an_adapter_of_another_size_of_mochi_fits_no_layer(write: Write) -> None:
    wide = DiTConfig(
        depth=3, heads=4, head_dim=16, visual_width=64, text_width=40, text_features=40
    )
    message = refusal(write(pairs_for(sizes_of(wide)), kwargs()), sizes_of(DIT))
    assert "fits no layer: 0 of 11 layers fit" in message
    assert "and 3 more" in message  # eight are shown


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["double_blocks.0.img_attn.qkv.lora_A.weight"], "double_blocks.0.img_attn"),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"], "a text encoder"),
        (["transformer_blocks.0.attn1.to_q.lokr_w1"], "LoKr"),
        (["blocks.0.attn.qkv_x.hada_w1_a"], "LoHa"),
        (["blocks.0.attn.qkv_x.weight"], "1 tensors: blocks.0.attn.qkv_x.weight"),
        ([], "no tensors at all"),
    ],
)
def test_what_is_no_adapter_of_mochis(write: Write, names: list[str], says: str) -> None:
    message = refusal(write({name: torch.ones(4, 4) for name in names}), None)
    assert "holds no LoRA of Mochi's" in message
    assert says in message


def test_an_other_kind_of_adapter_beside_the_matrices(write: Write, sizes: LayerSizes) -> None:
    state = pairs_for(sizes) | {"blocks.0.attn.qkv_x.dora_scale": torch.ones(96)}
    assert "blocks.0.attn.qkv_x.dora_scale is no matrix" in refusal(write(state), sizes)
    state = pairs_for(sizes) | {"blocks.0.attn.qkv_x.lora_B.bias": torch.ones(96)}
    assert "blocks.0.attn.qkv_x.lora_B.bias" in refusal(write(state), sizes)


def test_mixed_flavours_and_a_layer_twice(write: Write, sizes: LayerSizes) -> None:
    state = pairs_for(sizes)
    to_q = "transformer.transformer_blocks.0.attn1.to_q"
    mixed = state | {f"{to_q}.lora_A.weight": torch.ones(4, 32)}
    mixed |= {f"{to_q}.lora_B.weight": torch.ones(32, 4)}
    assert "mixes the names of several flavours" in refusal(write(mixed), sizes)
    twice = state | {"blocks.0.attn.qkv_x.lora_A.weight": torch.ones(4, 32)}
    assert "is the same as blocks.0.attn.qkv_x.lora_A" in refusal(write(twice), sizes)


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ((0, 32), (96, 0), "no matrix with numbers"),
        ((4,), (96, 4), "no matrix with numbers"),
        ((4, 32, 1, 1), (96, 4, 1, 1), "no matrix with numbers"),
        ((97, 32), (96, 97), "has rank 97, more than the 96"),
    ],
)
def test_ranks_and_shapes_that_cannot_be(
    write: Write, sizes: LayerSizes, a: tuple[int, ...], b: tuple[int, ...], says: str
) -> None:
    name = "blocks.0.attn.qkv_x.lora_"
    state = {f"{name}A": torch.ones(a), f"{name}B": torch.ones(b)}
    assert says in refusal(write(state), sizes)


def test_three_stacked_ranks_are_not_too_many(write: Write, sizes: LayerSizes) -> None:
    name = "blocks.0.attn.qkv_x.lora_"
    state = {f"{name}A": torch.ones(96, 32), f"{name}B": torch.ones(96, 96)}
    assert read_lora(write(state), sizes).ranks == (96,)


def test_whole_numbers_are_no_matrices(write: Write, sizes: LayerSizes) -> None:
    state = {k: v.to(torch.int8) for k, v in pairs_for(sizes).items()}
    assert "stores lora_A as int8" in refusal(write(state), sizes)


@pytest.mark.parametrize("metadata", [
    {"kwargs": "{"},
    {"kwargs": "[1]"},
    {"kwargs": '{"qkv_proj_lora_rank": "four"}'},
    {"kwargs": '{"qkv_proj_lora_alpha": NaN}'},
    {"kwargs": '{"qkv_proj_lora_alpha": 1e400}'},
    {"kwargs": '{"qkv_proj_lora_alpha": true}'},
    {"kwargs": '{"qkv_proj_lora_rank": -4}'},
    {"kwargs": "[" * 100_000},
    {"lora_adapter_metadata": '{"r": 4, "rank_pattern": [1]}'},
    {"lora_adapter_metadata": '{"r": 4.5}'},
    {"lora_adapter_metadata": '{"lora_alpha": "high"}'},
    {"lora_adapter_metadata": '{"use_dora": true}'},
    {"lora_adapter_metadata": '{"peft_type": "LOHA"}'},
    {"lora_adapter_metadata": '{"alpha_pattern": {"(a+)+": 1}}'},
    {"lora_adapter_metadata": '{"alpha_pattern": {"a(": 1}}'},
    {"mochi_folded_scales": '{"blocks.0.attn.qkv_x": 3}'},
    {"mochi_folded_scales": '{"blocks.0.attn.qkv_x": 0}'},
], ids=lambda metadata: str(metadata)[:60])  # fmt: skip
def test_broken_settings(write: Write, sizes: LayerSizes, metadata: dict[str, str]) -> None:
    (name,) = metadata
    message = refusal(write(pairs_for(sizes), metadata), sizes)
    assert name in message
    assert len(message) < 500


def test_a_rank_other_than_the_announced_one(write: Write, sizes: LayerSizes) -> None:
    message = refusal(write(pairs_for(sizes, rank=4), kwargs(8, 8)), sizes)
    assert "11 wrong rank" in message
    assert "has rank 4, 8 is announced" in message
    config = json.dumps({"transformer.r": 4, "transformer.rank_pattern": {"to_q": 6}})
    names = "transformer.transformer_blocks.0.attn1.to_q.lora_"
    state = {f"{names}A.weight": torch.ones(4, 32), f"{names}B.weight": torch.ones(32, 4)}
    message = refusal(write(state, {"lora_adapter_metadata": config}), sizes)
    assert "has rank 4, 6 is announced" in message


@pytest.mark.parametrize("alpha", [math.nan, math.inf, [1.0, 2.0]])
def test_a_broken_alpha(write: Write, sizes: LayerSizes, alpha: Any) -> None:
    state = pairs_for(sizes) | {"blocks.0.attn.qkv_x.alpha": torch.tensor(alpha)}
    message = refusal(write(state), sizes)
    assert "blocks.0.attn.qkv_x has an alpha that is no finite number" in message


def test_an_alpha_without_matrices(write: Write, sizes: LayerSizes) -> None:
    state = pairs_for(sizes, which=lambda layer: layer == "blocks.1.attn.qkv_x")
    path = write(state | {"blocks.0.attn.qkv_x.alpha": torch.tensor(1.0)})
    assert "blocks.0.attn.qkv_x has no lora_A and no lora_B" in refusal(path, sizes)


def test_patterns_that_could_run_for_ever_are_refused() -> None:
    evil = ["(a+)+$", "(.*)*x", ".*.*.*.*x", "(a|a)*", "a.*" + "a" * 200, "x{1,9}{1,9}y{2}z{3}"]
    for pattern in evil:
        with pytest.raises(WeightsError, match="not evaluated"):
            PeftScaling.parse(json.dumps({"alpha_pattern": {pattern: 1}}), "config")
    many = {f"a.*{number}": 1 for number in range(65)}
    with pytest.raises(WeightsError, match="more than 64 regular expressions"):
        PeftScaling.parse(json.dumps({"rank_pattern": many}), "config")


# ------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\x10\0\0\0\0\0\0\0{}", "truncated"),
        (b"PK\x03\x04" + bytes(50), ""),
        (b"<!DOCTYPE html>", "web page"),
        (b"GGUF" + bytes(60), ""),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert says in refusal(path, None)


def test_places_that_hold_nothing(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.safetensors", None)
    assert "no .safetensors at all" in refusal(tmp_path, None)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refusal(tmp_path / "loop", None)
    os.mkfifo(tmp_path / "pipe")
    refusal(tmp_path / "pipe", None)
    with pytest.raises(WeightsError):
        read_lora("x" * 5000)
    with pytest.raises(WeightsError):
        read_lora("a\0b")


def test_a_config_beside_that_is_no_text(write: Write, sizes: LayerSizes) -> None:
    name = "transformer.transformer_blocks.0.attn1.to_q.lora_"
    path = write({f"{name}A.weight": torch.ones(4, 32), f"{name}B.weight": torch.ones(32, 4)})
    config = path.parent / "adapter_config.json"
    config.write_bytes(b"\xff\xfe")
    assert "adapter_config.json: is no text" in refusal(path, sizes)
    config.write_bytes(b" " * (2 << 20))
    assert "too large for a config" in refusal(path, sizes)


class Evil:
    """Makes a file when it is unpickled, if anybody lets it."""

    def __init__(self, trace: Path):
        self._trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self._trace}'",)


def test_a_pt_that_would_run_code_is_refused(tmp_path: Path, sizes: LayerSizes) -> None:
    torch.save({"blocks.0.attn.qkv_x.lora_A": Evil(tmp_path / "ran")}, tmp_path / "a.pt")
    refusal(tmp_path / "a.pt", sizes)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


# ------------------------------------------------------------------------------------------- fuzzed

WORDS = st.sampled_from(
    ["blocks", "0", "1", "7", "attn", "qkv_x", "proj_y", "mod_y", "lora_A", "lora_B", "weight"]
    + ["transformer", "transformer_blocks", "attn1", "to_q", "to_out", "ff", "net", "proj", "alpha"]
    + ["lora_unet_blocks_0_attn_qkv_x", "lora_down", "lora_up", "default", "norm1_context"]
    + ["linear", "linear_1", "mlp_x", "w1", "", "é", "-1", "00"]
)
NAMES = st.lists(WORDS, min_size=1, max_size=6).map(".".join)
SHAPES = st.sampled_from([(), (1,), (2, 2), (4, 32), (96, 4), (0, 4), (3, 4), (1, 1), (2, 3, 4)])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)
KEYS = st.sampled_from(
    ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "peft_type", "use_rslora", "rank", "alpha"]
    + ["transformer.r", "qkv_proj_lora_rank", "qkv_proj_lora_alpha", "out_proj_lora_rank"]
)
SETTINGS = st.dictionaries(KEYS | TEXTS, VALUES, max_size=5).map(json.dumps) | TEXTS
METADATA = st.dictionaries(
    st.sampled_from(["kwargs", "lora_adapter_metadata", "mochi_folded_scales"]), SETTINGS
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.dictionaries(NAMES, st.tuples(SHAPES, st.booleans()), max_size=8), metadata=METADATA
)
def test_any_names_shapes_and_settings(
    tmp_path: Path,
    sizes: LayerSizes,
    names: dict[str, tuple[tuple[int, ...], bool]],
    metadata: dict[str, str],
) -> None:
    state = {
        name: torch.ones(shape) * (1 if ok else math.inf) for name, (shape, ok) in names.items()
    }
    (tmp_path / "a.safetensors").write_bytes(save(state, metadata=metadata))
    try:
        lora, report = scan_lora(tmp_path / "a.safetensors", sizes)
    except MochiError:
        return
    assert str(report)
    if report.ok:
        assert all(layer in sizes for layer in lora.layers)
        for layer, pairs in lora.layers.items():
            for pair in pairs:
                assert (pair.a.shape[1], len(pair.b) * pair.parts) == sizes[layer]


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_to_a_good_file(tmp_path: Path, sizes: LayerSizes, data: st.DataObject) -> None:
    good = bytearray(save(pairs_for(sizes, rank=1), metadata=kwargs(1, 1)))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, min(len(good), 3000) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)) | st.just(len(good)))
    path = tmp_path / "a.safetensors"
    path.write_bytes(bytes(good[:cut]))
    with suppress(MochiError):
        read_lora(path, sizes)
