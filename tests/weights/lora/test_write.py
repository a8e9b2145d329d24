"""Adapters written in one flavour and read from another: the same change of every layer."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.weights.lora.conftest import DIT, is_attention, kwargs, pairs_for, sizes_of
from torch import Tensor

from mochi.core.config import DiTConfig
from mochi.core.errors import OutputError, RequestError, WeightsError
from mochi.model.adapters import Factors
from mochi.weights.lora import Lora
from mochi.weights.lora_read import LayerSizes, read_lora
from mochi.weights.lora_write import TARGETS, lora_tensors, save_lora

Write = Callable[..., Path]
DEEPER = DiTConfig(depth=5, heads=3, head_dim=32, visual_width=96, text_width=48, text_features=48)
BOTH = pytest.mark.parametrize("config", [DIT, DEEPER], ids=["three blocks", "five blocks"])


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def changes(lora: Lora, sizes: LayerSizes) -> dict[str, Tensor]:
    """What an adapter adds to each weight, in float64."""
    found = {}
    for layer, pairs in lora.layers.items():
        inputs, outputs = sizes[layer]
        change = torch.zeros(outputs, inputs, dtype=torch.float64)
        for pair in pairs:
            rows = outputs // pair.parts
            product_ = float(pair.scale) * (pair.b.double() @ pair.a.double())
            change[pair.part * rows : (pair.part + 1) * rows] += product_
        found[layer] = change
    return found


def same(first: Lora, second: Lora, sizes: LayerSizes) -> bool:
    ours, theirs = changes(first, sizes), changes(second, sizes)
    return ours.keys() == theirs.keys() and all(
        torch.allclose(ours[k], theirs[k], rtol=0, atol=1e-15) for k in ours
    )


def peft_lora(write: Write, sizes: LayerSizes, *, ranks: tuple[int, ...], alpha: float) -> Lora:
    """Each projection with matrices of its own, as peft trains them; the last block has no k."""
    rng = torch.Generator().manual_seed(5)
    state, depth = {}, 1 + max(int(n.split(".")[1]) for n in sizes if n.startswith("blocks"))
    for block, (name, rank) in product(range(depth), zip(("to_q", "to_k", "to_v"), ranks)):  # noqa: B905
        wide = sizes["blocks.0.attn.proj_x"][0]
        if (block, name) != (depth - 1, "to_k"):
            module = f"transformer.transformer_blocks.{block}.attn1.{name}"
            state[f"{module}.lora_A.weight"] = torch.randn(rank, wide, generator=rng)
            state[f"{module}.lora_B.weight"] = torch.randn(wide, rank, generator=rng)
    config = {"transformer.lora_alpha": alpha}
    return read_lora(write(state, {"lora_adapter_metadata": json.dumps(config)}), sizes)


# -------------------------------------------------------------------------------------- round trips


@BOTH
@pytest.mark.parametrize(("first", "second"), list(product(TARGETS, TARGETS)))
@pytest.mark.parametrize("alpha", [4, 8, 3])
def test_from_the_original_through_any_two_flavours_and_back_bit_for_bit(
    write: Write, tmp_path: Path, config: DiTConfig, first: str, second: str, alpha: float
) -> None:
    sizes = sizes_of(config)
    state = pairs_for(sizes)
    path = write(state, kwargs(4, alpha))
    for number, target in enumerate((first, second, "original")):
        lora = read_lora(path, sizes)
        path = tmp_path / f"{number}.safetensors"
        save_lora(lora, path, target)
        assert read_lora(path, sizes).flavour == target
    again = load_file(path)
    assert again.keys() == state.keys()
    assert all(again[name].equal(tensor) for name, tensor in state.items())
    assert json.loads(metadata_of(path)["kwargs"]) == json.loads(kwargs(4, alpha)["kwargs"])


@BOTH
def test_original_to_peft_shares_a_and_splits_b(write: Write, config: DiTConfig) -> None:
    sizes = sizes_of(config)
    state = pairs_for(sizes)
    tensors, metadata = lora_tensors(read_lora(write(state, kwargs()), sizes), "diffusers")
    name = "transformer.transformer_blocks.1.attn1."
    thirds = state["blocks.1.attn.qkv_x.lora_B"].chunk(3)
    for module, third in zip(("to_q", "to_k", "to_v"), thirds, strict=True):
        assert tensors[f"{name}{module}.lora_A.weight"].equal(state["blocks.1.attn.qkv_x.lora_A"])
        assert tensors[f"{name}{module}.lora_B.weight"].equal(third)
    settings = json.loads(metadata["lora_adapter_metadata"])
    assert (settings["transformer.r"], settings["transformer.lora_alpha"]) == (4, 4)
    assert settings["transformer.alpha_pattern"] == {}


@BOTH
@pytest.mark.parametrize("ranks", [(4, 4, 4), (2, 3, 5)])
@pytest.mark.parametrize("alpha", [4, 6])
def test_peft_to_original_is_exact_at_the_sum_of_the_ranks(
    write: Write, tmp_path: Path, config: DiTConfig, ranks: tuple[int, ...], alpha: float
) -> None:
    sizes = sizes_of(config)
    lora = peft_lora(write, sizes, ranks=ranks, alpha=alpha)
    save_lora(lora, tmp_path / "o.safetensors", "original")
    again = read_lora(tmp_path / "o.safetensors", sizes)
    assert again.ranks == (sum(ranks),)
    if len(set(ranks)) == 1:
        assert same(again, lora, sizes)
        assert again.alphas == (3 * alpha,)
        pair = again.layers["blocks.0.attn.qkv_x"][0]
        q, k, v = lora.layers["blocks.0.attn.qkv_x"]
        assert pair.a.equal(torch.cat([q.a, k.a, v.a]))
        assert pair.b.equal(torch.block_diag(q.b, k.b, v.b))
        last = again.layers[f"blocks.{config.depth - 1}.attn.qkv_x"][0]
        wide = config.visual_width
        assert not last.b[wide : 2 * wide].any()  # nothing changes k there
    else:  # alpha / r differs between q, k and v: B takes the difference, rounded
        ours, theirs = changes(again, sizes), changes(lora, sizes)
        assert all(torch.allclose(ours[k], theirs[k], rtol=1e-6, atol=1e-6) for k in ours)


@BOTH
@pytest.mark.parametrize("target", TARGETS)
def test_peft_through_each_flavour_changes_the_same(
    write: Write, tmp_path: Path, config: DiTConfig, target: str
) -> None:
    sizes = sizes_of(config)
    lora = peft_lora(write, sizes, ranks=(4, 4, 4), alpha=2)
    save_lora(lora, tmp_path / "x.safetensors", target)
    middle = read_lora(tmp_path / "x.safetensors", sizes)
    assert same(middle, lora, sizes)
    save_lora(middle, tmp_path / "y.safetensors", "diffusers")
    assert same(read_lora(tmp_path / "y.safetensors", sizes), lora, sizes)


@BOTH
@pytest.mark.parametrize("target", TARGETS)
def test_any_linear_layer_may_be_adapted(
    write: Write, tmp_path: Path, config: DiTConfig, target: str
) -> None:
    """The MLPs' halves and the last block's modulation are named and ordered otherwise there."""
    sizes = sizes_of(config)
    path = write(pairs_for(sizes, rank=2, which=lambda layer: True))
    lora = read_lora(path, sizes)
    assert lora.layers.keys() == sizes.keys()
    save_lora(lora, tmp_path / "x.safetensors", target)
    again = read_lora(tmp_path / "x.safetensors", sizes)
    assert same(again, lora, sizes)
    save_lora(again, tmp_path / "y.safetensors", "original")
    state = load_file(path)
    back = load_file(tmp_path / "y.safetensors")
    assert back.keys() == state.keys()
    assert all(back[name].equal(tensor) for name, tensor in state.items())


def test_uneven_ranks_and_scales_share_one_setting_in_the_original(
    write: Write, tmp_path: Path, sizes: LayerSizes
) -> None:
    rng = torch.Generator().manual_seed(0)
    names = [f"diffusion_model.blocks.{i}.attn.qkv_x" for i in range(3)]
    state = {}
    for name, rank, alpha in zip(names, (2, 4, 4), (1, 8, 2), strict=True):
        state[f"{name}.lora_A"] = torch.randn(rank, 32, generator=rng)
        state[f"{name}.lora_B"] = torch.randn(96, rank, generator=rng)
        state[f"{name}.alpha"] = torch.tensor(float(alpha))
    lora = read_lora(write(state), sizes)
    save_lora(lora, tmp_path / "o.safetensors", "original")
    again = read_lora(tmp_path / "o.safetensors", sizes)
    assert (again.ranks, again.alphas) == ((4,), (2.0,))  # alpha / r of most layers is 1 / 2
    assert same(again, lora, sizes)
    assert json.loads(metadata_of(tmp_path / "o.safetensors")["kwargs"])["out_proj_lora_rank"] == 0


def test_comfy_says_alpha_where_it_is_not_the_rank(write: Write, sizes: LayerSizes) -> None:
    plain, _ = lora_tensors(read_lora(write(pairs_for(sizes), kwargs(4, 4)), sizes), "comfy")
    scaled, _ = lora_tensors(read_lora(write(pairs_for(sizes), kwargs(4, 0.1)), sizes), "comfy")
    assert not any(name.endswith(".alpha") for name in plain)
    assert set(plain) <= set(scaled)
    alpha = scaled["diffusion_model.blocks.0.attn.proj_x.alpha"]
    assert alpha.item() == 0.1  # float64, as float32 would round it


def test_readers_that_know_no_alpha_get_it_in_b(write: Write, sizes: LayerSizes) -> None:
    """A power of two is moved without rounding; anything else stays in the settings."""
    state = pairs_for(sizes)
    name = "transformer.transformer_blocks.0.attn1.to_out.0.lora_B.weight"
    b = state["blocks.0.attn.proj_x.lora_B"]
    doubled, metadata = lora_tensors(read_lora(write(state, kwargs(4, 8)), sizes), "diffusers")
    assert doubled[name].equal(2 * b)
    assert json.loads(metadata["lora_adapter_metadata"])["transformer.lora_alpha"] == 4
    kept, metadata = lora_tensors(read_lora(write(state, kwargs(4, 6)), sizes), "diffusers")
    assert kept[name].equal(b)
    assert json.loads(metadata["lora_adapter_metadata"])["transformer.lora_alpha"] == 6
    tiny = {k: v * 2.0**-149 for k, v in state.items()}  # halving these loses bits
    lora = read_lora(write(tiny, kwargs(4, 2)), sizes)
    assert json.loads(lora_tensors(lora, "diffusers")[1]["lora_adapter_metadata"])[
        "transformer.lora_alpha"
    ] == 2  # fmt: skip


def test_the_last_blocks_modulation_is_told_by_its_size_or_by_the_caller(
    write: Write, sizes: LayerSizes
) -> None:
    one = read_lora(write(pairs_for(sizes, which=lambda layer: layer == "blocks.2.mod_y")), sizes)
    with pytest.raises(WeightsError, match=r"blocks\.2\.mod_y.*how many blocks"):
        lora_tensors(one, "diffusers")
    for depth, name in ((3, "linear_1"), (4, "linear")):
        tensors, _ = lora_tensors(one, "diffusers", depth)
        name = f"transformer.transformer_blocks.2.norm1_context.{name}.lora_A.weight"
        assert name in tensors
    earlier = pairs_for(sizes, which=lambda x: x in ("blocks.0.mod_y", "blocks.1.mod_y"))
    tensors, _ = lora_tensors(read_lora(write(earlier), sizes), "diffusers")
    assert not any("linear_1" in name for name in tensors)


# ------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_dtype_on_request(
    write: Write, tmp_path: Path, sizes: LayerSizes, dtype: torch.dtype
) -> None:
    lora = read_lora(write(pairs_for(sizes), kwargs()), sizes)
    save_lora(lora, tmp_path / "x.safetensors", "comfy", dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "x.safetensors").values()} == {dtype}


def test_numbers_too_large_for_the_dtype_are_refused(
    write: Write, tmp_path: Path, sizes: LayerSizes
) -> None:
    lora = read_lora(write({k: v * 1e6 for k, v in pairs_for(sizes).items()}), sizes)
    with pytest.raises(WeightsError, match=r"too large for float16"):
        save_lora(lora, tmp_path / "x.safetensors", "original", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_exists_is_not_replaced_unasked(
    write: Write, tmp_path: Path, sizes: LayerSizes
) -> None:
    path = write(pairs_for(sizes), kwargs())
    before, lora = path.read_bytes(), read_lora(path, sizes)
    with pytest.raises(OutputError, match="exists"):
        save_lora(lora, path, "comfy")
    assert path.read_bytes() == before
    save_lora(lora, path, "comfy", overwrite=True)  # from and to the same file
    assert read_lora(path, sizes).flavour == "comfy"
    with pytest.raises(RequestError, match="original, comfy, diffusers"):
        save_lora(lora, tmp_path / "x.safetensors", "kohya")  # type: ignore[arg-type]


def test_the_same_adapter_gives_the_same_bytes(
    write: Write, tmp_path: Path, sizes: LayerSizes
) -> None:
    lora = read_lora(write(pairs_for(sizes), kwargs() | {"author": "somebody"}), sizes)
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for path in files:
        save_lora(lora, path, "diffusers")
        assert metadata_of(path)["author"] == "somebody"
        assert metadata_of(path)["format"] == "pt"
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_a_network_wears_can_be_written(tmp_path: Path, sizes: LayerSizes) -> None:
    state = pairs_for(sizes)
    factors = {
        layer: [Factors(state[f"{layer}.lora_A"], state[f"{layer}.lora_B"], 16 / 3)]
        for layer in sizes
        if is_attention(layer)
    }
    save_lora(Lora.of_factors(factors, {"author": "me"}), tmp_path / "x.safetensors", "original")
    lora = read_lora(tmp_path / "x.safetensors", sizes)
    assert lora.metadata["author"] == "me"
    assert [float(pair.scale) for pair in lora.pairs] == [16 / 3] * len(factors)
    assert all(p.a.equal(state[f"{layer}.lora_A"]) for layer, (p,) in lora.layers.items())
