"""T5 encoders: full size by count, loading against transformers' own, folders that are broken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi.core.errors import RequestError, WeightsError
from mochi.text.t5 import T5_XXL, T5Size, build_t5, load_t5

IDS = torch.tensor([[3, 8, 6, 1]])

Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tiny: Any, tmp_path: Path) -> Path:
    """A copy of the encoder's folder, to be broken."""
    return Path(shutil.copytree(tiny.encoder, tmp_path / "text_encoder"))


def edit(folder: Path, change: Callable[[Weights], object]) -> None:
    file = folder / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(weights)
    save_file(weights, file)


def test_full_size_is_the_published_encoder() -> None:
    with torch.device("meta"):
        model = build_t5(T5_XXL)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_762_310_656
    assert model.config.d_model == 4096
    names = set(model.state_dict())
    assert "encoder.block.23.layer.1.DenseReluDense.wi_1.weight" in names
    assert "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight" in names
    assert not list(model.buffers())  # nothing that a meta device would leave empty after loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loads_what_transformers_loads(tiny: Any, dtype: torch.dtype) -> None:
    from transformers import T5EncoderModel

    ours = load_t5(tiny.encoder, dtype)
    theirs = T5EncoderModel.from_pretrained(tiny.encoder, dtype=dtype).eval()
    assert {p.dtype for p in ours.parameters()} == {dtype}
    assert not any(p.is_meta or p.requires_grad for p in ours.parameters())
    assert ours.shared.weight is ours.encoder.embed_tokens.weight
    assert not ours.training
    with torch.no_grad():  # the attention kernel depends on it
        expected, got = theirs(IDS).last_hidden_state, ours(IDS).last_hidden_state
    assert got.dtype == dtype
    assert torch.equal(got, expected)


def test_a_whole_t5_in_pieces_gives_its_encoder(tiny: Any, folder: Path) -> None:
    """Shards with an index, the embedding's other name, a decoder and a head to be passed over."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights["encoder.embed_tokens.weight"] = weights.pop("shared.weight")
    weights |= {"decoder.block.0.w": torch.ones(2), "lm_head.weight": torch.ones(3)}
    names = sorted(weights)
    pieces = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    for file, part in pieces.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in pieces.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = load_t5(tiny.encoder)(IDS).last_hidden_state
    assert torch.equal(load_t5(folder)(IDS).last_hidden_state, expected)

    # A variant whose pieces were not fetched does not get in the way.
    (folder / "model.safetensors.index.bf16.json").write_text('{"weight_map": {"x": "absent"}}')
    assert torch.equal(load_t5(folder)(IDS).last_hidden_state, expected)

    (folder / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"b\.safetensors"):
        load_t5(folder)


def test_random_encoders_of_any_size_can_be_trained() -> None:
    model = build_t5(T5Size(vocabulary=16, width=8, feed_forward=8, depth=1, heads=2, head_dim=4))
    model(torch.tensor([[3, 1]])).last_hidden_state.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_float16_is_refused(tiny: Any) -> None:
    with pytest.raises(RequestError, match="float16 overflows"):
        load_t5(tiny.encoder, torch.float16)


def test_missing_folders_say_how_to_get_them(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(WeightsError, match="mochi weights download") as caught:
            load_t5(folder)
        assert str(folder) in str(caught.value)


def test_absent_weights_are_an_error_not_random_numbers(folder: Path) -> None:
    edit(folder, lambda weights: weights.pop("encoder.final_layer_norm.weight"))
    with pytest.raises(WeightsError, match=r"1 weights are missing: encoder\.final_layer_norm"):
        load_t5(folder)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"strange": torch.ones(2)}, "strange"),
        ({"shared.weight": torch.ones(5, 32)}, r"shared\.weight has the shape \(5, 32\)"),
        ({"shared.weight": torch.ones(32, 32, dtype=torch.int32)}, "not floating point"),
    ],
)
def test_foreign_weights_are_errors(folder: Path, extra: Weights, message: str) -> None:
    edit(folder, lambda weights: weights.update(extra))
    with pytest.raises(WeightsError, match=message):
        load_t5(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated_files_are_errors(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_t5(folder)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"model_type": "bert"}', "{}", '{"model_type": "t5", "d_model": "x"}'],
)
def test_configs_that_describe_no_t5_are_errors(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_t5(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}']
)
def test_indexes_that_list_nothing_are_errors(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match="index"):
        load_t5(folder)
