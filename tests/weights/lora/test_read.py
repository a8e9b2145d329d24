"""Adapters in every flavour: recognised by content, under our names, with the right scales."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from tests.weights.lora.conftest import kwargs, pairs_for

from mochi.core.errors import WeightsError
from mochi.weights.lora_names import LayerNames, TensorName
from mochi.weights.lora_read import LayerSizes, read_lora, scan_lora

Write = Callable[..., Path]


def renamed(state: dict[str, torch.Tensor], before: str, end: str) -> dict[str, torch.Tensor]:
    return {f"{before}{name}{end}": tensor for name, tensor in state.items()}


def flat(name: str) -> str:
    layer, _, matrix = name.rpartition(".")
    word = {"lora_A": "lora_down", "lora_B": "lora_up"}[matrix]
    return f"lora_unet_{layer.replace('.', '_')}.{word}.weight"


# ---------------------------------------------------------------------------------------- flavours


def test_the_original(write: Write, sizes: LayerSizes) -> None:
    state = pairs_for(sizes)
    lora = read_lora(write(state, kwargs(4, 8)), sizes)
    assert lora.flavour == "original"
    assert set(lora.layers) == {name.rpartition(".")[0] for name in state}
    assert (lora.ranks, lora.alphas) == ((4,), (8.0,))
    for layer, (pair,) in lora.layers.items():
        assert pair.a.equal(state[f"{layer}.lora_A"])
        assert pair.b.equal(state[f"{layer}.lora_B"])
        assert pair.scale == 2
    assert lora.parameters == sum(tensor.numel() for tensor in state.values())


@pytest.mark.parametrize(
    ("before", "end", "flavour"),
    [
        ("", "", "original"),
        ("", ".weight", "comfy"),
        ("diffusion_model.", "", "comfy"),
        ("diffusion_model.", ".weight", "comfy"),
        ("model.diffusion_model.", "", "comfy"),
        ("transformer.", "", "comfy"),
        ("base_model.model.", ".weight", "comfy"),
        ("base_model.model.transformer.", ".default.weight", "comfy"),
    ],
)
def test_what_stands_before_and_behind_the_names(
    write: Write, sizes: LayerSizes, before: str, end: str, flavour: str
) -> None:
    state = pairs_for(sizes)
    lora = read_lora(write(renamed(state, before, end)), sizes)
    assert lora.flavour == flavour
    assert set(lora.layers) == {name.rpartition(".")[0] for name in state}
    assert all(pair.scale == 1 for pair in lora.pairs)


def test_kohyas_flat_names_with_alphas(write: Write, sizes: LayerSizes) -> None:
    state = {flat(name): tensor for name, tensor in pairs_for(sizes).items()}
    alphas = {
        name.replace("lora_up.weight", "alpha"): torch.tensor(2.0)
        for name in state
        if "lora_up" in name
    }
    lora = read_lora(write(state | alphas), sizes)
    assert lora.flavour == "kohya"
    assert all(pair.scale == Fraction(1, 2) for pair in lora.pairs)
    theirs = {"lora_transformer_transformer_blocks_1_ff_net_2.lora_down.weight": torch.ones(2, 85)}
    theirs["lora_transformer_transformer_blocks_1_ff_net_2.lora_up.weight"] = torch.ones(32, 2)
    sizes = {"blocks.1.mlp_x.w2": (85, 32)}
    assert set(read_lora(write(theirs), sizes).layers) == {"blocks.1.mlp_x.w2"}


def test_every_layer_is_found_by_each_of_its_names(sizes: LayerSizes) -> None:
    last = 2
    names = LayerNames(last)
    for layer in sizes:
        theirs, _ = names.theirs(layer)
        place = names.place(layer)
        assert place is not None
        assert (place.layer, place.part, place.parts) == (layer, 0, 1)
        for part, module in enumerate(theirs):
            place = names.place(module)
            assert place is not None
            assert (place.layer, place.part, place.parts) == (layer, part, len(theirs))
    assert names.place("blocks.01.mod_x") is None
    assert names.place("single_transformer_blocks.0.attn.to_q") is None


def test_the_last_blocks_own_name_tells_which_is_the_last() -> None:
    modules = ["transformer_blocks.4.norm1_context.linear_1", "transformer_blocks.1.attn1.to_q"]
    names = LayerNames.of_modules(modules)
    assert names.theirs("blocks.4.mod_y")[0] == (modules[0],)
    assert names.theirs("blocks.3.mod_y")[0] == ("transformer_blocks.3.norm1_context.linear",)
    assert names.place(modules[0]).layer == "blocks.4.mod_y"  # type: ignore[union-attr]
    assert LayerNames.of_modules(modules[1:]).place(modules[0]) is None


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("blocks.0.mod_x.lora_A", ("blocks.0.mod_x", "a", True)),
        ("blocks.0.mod_x.lora_B.weight", ("blocks.0.mod_x", "b", False)),
        ("transformer.x.lora_A.default.weight", ("x", "a", False)),
        ("x.lora.up.weight", ("x", "b", False)),
        ("x.alpha", ("x", "alpha", False)),
        ("x.lora_B.bias", None),
        ("x.lora_C.weight", None),
        ("x.weight", None),
        ("alpha", None),
    ],
)
def test_names_are_taken_apart(name: str, parsed: tuple[str, str, bool] | None) -> None:
    found = TensorName.parse(name)
    assert (found and (found.module, found.role, found.is_plain)) == parsed


# ------------------------------------------------------------------------------------------ scales


def peft_state(sizes: LayerSizes) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    state = {}
    for i in range(2):
        for projection, rank in (("to_q", 4), ("to_v", 8)):
            name = f"transformer.transformer_blocks.{i}.attn1.{projection}"
            state[f"{name}.lora_A.weight"] = torch.randn(rank, 32, generator=rng)
            state[f"{name}.lora_B.weight"] = torch.randn(32, rank, generator=rng)
    return state


def scales(path: Path, sizes: LayerSizes) -> dict[str, Fraction]:
    return {pair.module: pair.scale for pair in read_lora(path, sizes).pairs}


CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "rank_pattern": {"to_v": 8},
    "alpha_pattern": {"^transformer_blocks.1.attn1.to_v": 2, r".*\.0\.attn1\.to_v": 24},
}
EXPECTED = {
    "transformer_blocks.0.attn1.to_q": Fraction(2),
    "transformer_blocks.0.attn1.to_v": Fraction(3),
    "transformer_blocks.1.attn1.to_q": Fraction(2),
    "transformer_blocks.1.attn1.to_v": Fraction(1, 4),
}


def test_without_settings_alpha_is_the_rank(write: Write, sizes: LayerSizes) -> None:
    path = write(peft_state(sizes))
    assert set(scales(path, sizes).values()) == {Fraction(1)}
    lora = read_lora(path, sizes)
    assert lora.flavour == "diffusers"
    assert {(pair.part, pair.parts) for pair in lora.layers["blocks.0.attn.qkv_x"]} == {
        (0, 3),
        (2, 3),
    }


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_diffusers_metadata(write: Write, sizes: LayerSizes, prefix: str) -> None:
    config = {f"{prefix}{key}": value for key, value in CONFIG.items()}
    path = write(peft_state(sizes), {"lora_adapter_metadata": json.dumps(config)})
    assert scales(path, sizes) == EXPECTED


def test_a_peft_folder_and_a_file_beside_its_config(write: Write, sizes: LayerSizes) -> None:
    path = write(peft_state(sizes), name="adapter_model.safetensors")
    (path.parent / "adapter_config.json").write_text(json.dumps(CONFIG))
    assert scales(path.parent, sizes) == scales(path, sizes) == EXPECTED
    (path.parent / "adapter_config.json").write_text(json.dumps(CONFIG | {"use_rslora": True}))
    assert scales(path, sizes)["transformer_blocks.0.attn1.to_q"] == 4  # 8 / sqrt(4)


def test_the_originals_config_is_not_that_of_a_neighbour(write: Write, sizes: LayerSizes) -> None:
    path = write(pairs_for(sizes), kwargs(4, 2))
    (path.parent / "adapter_config.json").write_text(json.dumps(CONFIG))
    assert set(scales(path, sizes).values()) == {Fraction(1, 2)}


def test_the_two_families_of_the_original(write: Write, sizes: LayerSizes) -> None:
    settings = {"qkv_proj_lora_rank": 4, "qkv_proj_lora_alpha": 1, "out_proj_lora_alpha": 12}
    found = scales(write(pairs_for(sizes), {"kwargs": json.dumps(settings)}), sizes)
    assert found["blocks.0.attn.qkv_y"] == Fraction(1, 4)
    assert found["blocks.0.attn.proj_y"] == 3
    general = {"kwargs": json.dumps({"rank": 4, "alpha": 6})}
    assert set(scales(write(pairs_for(sizes), general), sizes).values()) == {Fraction(3, 2)}


# -------------------------------------------------------------------------------------- containers


def test_a_pt_file(sizes: LayerSizes, tmp_path: Path) -> None:
    state = pairs_for(sizes)
    torch.save(state, tmp_path / "a.pt")
    lora = read_lora(tmp_path / "a.pt", sizes)
    assert lora.flavour == "original"
    assert all(pair.a.equal(state[f"{layer}.lora_A"]) for layer, (pair,) in lora.layers.items())


def test_a_folder_with_one_file_and_one_with_several(write: Write, sizes: LayerSizes) -> None:
    path = write(pairs_for(sizes), name="any name.safetensors")
    assert read_lora(path.parent, sizes).path == path
    write(pairs_for(sizes), name="another.safetensors")
    with pytest.raises(WeightsError, match=r"another\.safetensors, any name\.safetensors"):
        read_lora(path.parent, sizes)
    write(pairs_for(sizes), name="pytorch_lora_weights.safetensors")
    assert read_lora(path.parent, sizes).path == path.parent / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_matrices_keep_their_dtype(write: Write, sizes: LayerSizes, dtype: torch.dtype) -> None:
    lora = read_lora(write({k: v.to(dtype) for k, v in pairs_for(sizes).items()}), sizes)
    assert {pair.a.dtype for pair in lora.pairs} == {pair.b.dtype for pair in lora.pairs} == {dtype}


def test_a_hash_is_that_of_the_file(write: Write, sizes: LayerSizes) -> None:
    import hashlib

    path = write(pairs_for(sizes))
    assert read_lora(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_a_network_only_what_the_file_itself_says_is_compared(
    write: Write, sizes: LayerSizes
) -> None:
    state = pairs_for(sizes) | {
        "blocks.40.attn.qkv_x.lora_A": torch.ones(4, 9),
        "blocks.40.attn.qkv_x.lora_B": torch.ones(7, 4),
    }
    path = write(state)
    assert "blocks.40.attn.qkv_x" in read_lora(path).layers
    lora, report = scan_lora(path, sizes)
    assert not report.ok
    assert "blocks.40.attn.qkv_x is no linear layer of this model" in str(report)
    assert report.fitting == len(lora.layers) - 1
