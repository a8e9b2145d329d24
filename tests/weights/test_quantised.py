"""Checkpoints in every marking compute what the same values decoded beforehand compute."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.weights.conftest import randomised
from tests.weights.marked import E4M3, E5M2, Marked, State, fp8_plain, fp8_scaled, in_safetensors
from tests.weights.marked import write_gguf as write_gguf_file
from torch import Tensor

from mochi.core.config import DiTConfig
from mochi.core.errors import WeightsError
from mochi.model.dit import AsymmDiT
from mochi.model.stored import StoredLinear, weight_bytes
from mochi.weights.checkpoint import Checkpoint
from mochi.weights.loading import load_dit

SMALL = DiTConfig(depth=1, heads=1, head_dim=32, visual_width=32, text_width=32, text_features=32)
ODD = DiTConfig(depth=3, heads=2, head_dim=16, visual_width=32, text_width=24, text_features=40)
WIDE = DiTConfig(
    depth=2, heads=2, head_dim=128, visual_width=256, text_width=256, text_features=256
)
CONFIGS = {"one block": SMALL, "odd widths": ODD, "wide": WIDE}
_STATES: dict[str, State] = {}


def state_of(name: str) -> State:
    if name not in _STATES:
        with torch.device("meta"):
            network = AsymmDiT(CONFIGS[name])
        _STATES[name] = randomised(network)
    return _STATES[name]


def k_quant(kind: str) -> Callable[[str, Tensor], str]:
    """Matrices of whole blocks in `kind`, the rest as quantisers keep it."""
    size = 256 if kind.endswith("_k") else 32

    def choose(name: str, tensor: Tensor) -> str:
        if name.endswith(".weight") and tensor.ndim == 2 and tensor.shape[1] % size == 0:
            return kind
        return "f32" if tensor.ndim == 1 or name == "pos_frequencies" else "f16"

    return choose


MARKINGS: dict[str, Callable[[State], Marked]] = {
    "fp8_scaled old": lambda state: fp8_scaled(state, "old", input_scales=True),
    "fp8_scaled old, prefixed": lambda state: fp8_scaled(state, "old", "model.diffusion_model."),
    "fp8_scaled old, e5m2": lambda state: fp8_scaled(state, "old", dtype=E5M2),
    "fp8_scaled new": lambda state: fp8_scaled(state, "new", input_scales=True),
    "fp8_scaled new, e5m2": lambda state: fp8_scaled(state, "new", "diffusion_model.", E5M2),
    "fp8_scaled new, metadata": lambda state: fp8_scaled(state, "metadata"),
    "fp8 cast": lambda state: fp8_plain(state),
    "fp8 cast, e5m2": lambda state: fp8_plain(state, E5M2),
    "GGUF in .safetensors, Q4_0": lambda state: in_safetensors(state, "q4_0"),
    "GGUF in .safetensors, Q8_0": lambda state: in_safetensors(state, "q8_0"),
}


@torch.no_grad()
def velocity(dit: AsymmDiT) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(2, 12, 2, 4, 6, generator=generator)
    text = torch.randn(2, 7, dit.config.text_features, generator=generator)
    mask = torch.arange(7)[None] < torch.tensor([[7], [3]])
    return dit(z, torch.tensor([0.3, 0.8]), text, mask)


def dense(config: DiTConfig, meaning: State) -> AsymmDiT:
    with torch.device("meta"):
        network = AsymmDiT(config)
    network.load_state_dict(meaning, assign=True)
    return network


def check_alike(path: Path, meaning: State, config: DiTConfig) -> AsymmDiT:
    """Kept small, and decoded when loaded: both are the decoded values, to the bit."""
    expected = velocity(dense(config, meaning))
    small, large = load_dit(path), load_dit(path, dequantize=True)
    assert small.config == config
    assert torch.equal(velocity(small), expected)
    assert torch.equal(velocity(large), expected)
    assert not any(isinstance(m, StoredLinear) for m in large.modules())
    assert any(isinstance(m, StoredLinear) for m in small.modules())
    assert weight_bytes(small) < 0.6 * weight_bytes(large)
    if config is SMALL:
        halves = [load_dit(path, dtype=torch.bfloat16, dequantize=bool(it)) for it in (0, 1)]
        assert torch.equal(*map(velocity, halves))
    return small


@pytest.mark.parametrize(
    ("marking", "config"),
    [(marking, config) for marking in MARKINGS for config in ("one block", "odd widths")]
    + [("fp8_scaled old", "wide"), ("GGUF in .safetensors, Q4_0", "wide")],
)
def test_marked_files_compute_what_their_values_do(marking: str, config: str, tmp_path: Path):
    marked = MARKINGS[marking](state_of(config))
    path = marked.save(tmp_path / "some file")  # nothing may depend on the name
    check_alike(path, marked.meaning, CONFIGS[config])


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_gguf_files_compute_what_their_values_do(kind: str, prefix: str, tmp_path: Path):
    path = tmp_path / "weights.bin"
    meaning = write_gguf_file(path, state_of("odd widths"), k_quant(kind), prefix)
    network = check_alike(path, meaning, ODD)
    assert network.blocks[0].attn.qkv_x.kind == kind


@pytest.mark.parametrize("kind", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"])
def test_gguf_files_of_k_quants(kind: str, tmp_path: Path):
    meaning = write_gguf_file(tmp_path / "dit.gguf", state_of("wide"), k_quant(kind))
    check_alike(tmp_path / "dit.gguf", meaning, WIDE)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_gguf_files_of_plain_floats(kind: str, tmp_path: Path):
    meaning = write_gguf_file(tmp_path / "dit.gguf", state_of("one block"), lambda *_: kind)
    network = load_dit(tmp_path / "dit.gguf", dtype=torch.float32)
    assert torch.equal(velocity(network), velocity(dense(SMALL, meaning)))
    stored = load_dit(tmp_path / "dit.gguf").t5_yproj.weight.dtype
    assert stored == {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]


def test_a_small_network_stays_in_the_file(tmp_path: Path):
    """Loading makes no copy; what is read is shared with the file's map."""
    path = tmp_path / "dit.gguf"
    write_gguf_file(path, state_of("wide"), k_quant("q4_0"))
    network = load_dit(path)
    assert weight_bytes(network) == pytest.approx(path.stat().st_size, rel=0.05)
    pointers = [m.raw_data.data_ptr() for m in network.modules() if isinstance(m, StoredLinear)]
    span = max(pointers) - min(pointers)
    assert 0 < span < path.stat().st_size


def test_scales_by_row_and_bytes_for_float8(tmp_path: Path):
    """Two things the new marking allows: a scale for each output, float8 in a uint8 container."""
    marked = fp8_scaled(state_of("odd widths"), "new")
    name = "blocks.0.attn.qkv_x"
    rows = torch.rand(96, generator=torch.Generator().manual_seed(1)) + 0.5
    marked.tensors[f"{name}.weight_scale"] = rows
    marked.meaning[f"{name}.weight"] = marked.tensors[f"{name}.weight"].float() * rows[:, None]
    other = "blocks.1.attn.qkv_x.weight"
    marked.tensors[other] = marked.tensors[other].view(torch.uint8)
    check_alike(marked.save(tmp_path / "x"), marked.meaning, ODD)


def test_wider_weights_may_be_scaled_too(tmp_path: Path):
    marked = fp8_scaled(state_of("odd widths"), "old")
    name = "blocks.0.attn.qkv_x.weight"
    marked.tensors[name] = marked.tensors[name].to(torch.float16)
    check_alike(marked.save(tmp_path / "x"), marked.meaning, ODD)


def test_float8_in_the_diffusers_layout(tmp_path: Path):
    """Pieces that become one matrix keep a scale each; halves that change places keep theirs."""
    from mochi.weights.layouts import DIFFUSERS_DIT

    state = state_of("odd widths")
    names = DIFFUSERS_DIT.from_ours(state)
    theirs = {k: v for name, t in state.items() for k, v in names.to_theirs(name, t).items()}
    marked = fp8_scaled(theirs, "old")
    meaning = {name: names.to_ours(name, marked.meaning.__getitem__) for name in state}
    network = check_alike(marked.save(tmp_path / "x"), meaning, ODD)
    assert network.blocks[0].attn.qkv_x.raw_scale.shape == (96, 1)


# ----------------------------------------------------------------------------------------- refusals


def refused(marked: Marked, path: Path, says: str) -> None:
    marked.save(path)
    with pytest.raises(WeightsError, match=says) as caught:
        load_dit(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


LAYER = "blocks.0.attn.qkv_x"


@pytest.mark.parametrize("marking", ["old", "new", "metadata"])
@pytest.mark.parametrize("how_many", ["one", "all"])
def test_missing_scales_are_refused_not_guessed(marking: str, how_many: str, tmp_path: Path):
    marked = fp8_scaled(state_of("odd widths"), marking)
    suffix = "scale_weight" if marking == "old" else "weight_scale"
    for name in [n for n in marked.tensors if n.endswith(suffix)]:
        if how_many == "all" or name.startswith(LAYER):
            del marked.tensors[name]
    refused(marked, tmp_path / "x", r"scale of .* is missing; without its scale .* noise")


def test_scales_that_somebody_stripped_with_the_marker_are_noticed(tmp_path: Path):
    """Without marker and scales it looks like a cast, but no cast fills the range of float8."""
    marked = fp8_scaled(state_of("odd widths"), "old")
    bare = {n: t for n, t in marked.tensors.items() if "scale" not in n}
    refused(Marked(bare, {}), tmp_path / "x", r"fill the whole range of float8 and no scales")


def test_one_scale_missing_without_a_marker(tmp_path: Path):
    marked = fp8_scaled(state_of("odd widths"), "old")
    del marked.tensors["scaled_fp8"], marked.tensors[f"{LAYER}.scale_weight"]
    refused(marked, tmp_path / "x", rf"scale of {LAYER}\.weight is missing")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (b'{"format": "nvfp4"}', "quantisation 'nvfp4'"),
        (b'{"format": 3}', "quantisation '3'"),
        (b"{}", "quantisation 'None'"),
        (b"[]", "no JSON object"),
        (b"not json", "no JSON object"),
        (b"[" * 60_000, "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b" " * 70_000, "64 KiB"),
    ],
)
def test_strange_configurations_of_a_layer(config: bytes, says: str, tmp_path: Path):
    marked = fp8_scaled(state_of("one block"), "new")
    marked.tensors[f"{LAYER}.comfy_quant"] = torch.tensor(list(config), dtype=torch.uint8)
    refused(marked, tmp_path / "x", says)


@pytest.mark.parametrize(
    "text",
    ["", "3", "{", '{"layers": 3}', '{"layers": {"blocks.0.attn.qkv_x": "fp8"}}', "[" * 100_000],
)
def test_strange_metadata(text: str, tmp_path: Path):
    marked = fp8_scaled(state_of("one block"), "metadata")
    marked.metadata["_quantization_metadata"] = text
    refused(marked, tmp_path / "x", "_quantization_metadata|quantisation 'None'")


def test_metadata_may_list_layers_of_other_files(tmp_path: Path):
    marked = fp8_scaled(state_of("one block"), "metadata")
    listed = json.loads(marked.metadata["_quantization_metadata"])
    listed["layers"]["vae.decoder.x"] = {"format": "int8_blockwise"}
    marked.metadata["_quantization_metadata"] = json.dumps(listed)
    check_alike(marked.save(tmp_path / "x"), marked.meaning, SMALL)


def test_scales_of_strange_shapes(tmp_path: Path):
    for shape in ((2, 3), (5,), (0,)):
        marked = fp8_scaled(state_of("one block"), "old")
        marked.tensors[f"{LAYER}.scale_weight"] = torch.ones(shape)
        refused(marked, tmp_path / "x", rf"the scale {LAYER}\.scale_weight of shape")
    marked.tensors[f"{LAYER}.scale_weight"] = torch.ones((), dtype=torch.int32)
    refused(marked, tmp_path / "x", "by int32")


def test_a_scale_without_a_weight_is_unexpected(tmp_path: Path):
    marked = fp8_scaled(state_of("one block"), "old")
    marked.tensors["blocks.9.extra.scale_weight"] = torch.ones(())
    marked.save(tmp_path / "x")
    with pytest.raises(WeightsError, match=r"unexpected: blocks\.9\.extra\.scale_weight"):
        load_dit(tmp_path / "x")


def test_scales_that_are_no_numbers(tmp_path: Path):
    for value in (float("nan"), float("inf")):
        marked = fp8_scaled(state_of("one block"), "old")
        marked.tensors[f"{LAYER}.scale_weight"] = torch.tensor(value)
        refused(marked, tmp_path / "x", f"NaN or infinity: 1 of .* {LAYER}")


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_float8_that_is_no_number(dtype: torch.dtype, tmp_path: Path):
    marked = fp8_plain(state_of("one block"), dtype)
    raw = marked.tensors[f"{LAYER}.weight"].view(torch.uint8).clone()
    raw[2, 3] = 0xFF
    marked.tensors[f"{LAYER}.weight"] = raw.view(dtype)
    refused(marked, tmp_path / "x", f"NaN or infinity: 1 of {raw.numel()} values of {LAYER}")


def test_block_scales_that_are_no_numbers(tmp_path: Path):
    marked = in_safetensors(state_of("one block"), "q8_0")
    raw = marked.tensors[f"{LAYER}.Q8_0_qweight"].clone()
    raw[1, :2] = torch.tensor([float("nan")]).half().view(torch.uint8)
    marked.tensors[f"{LAYER}.Q8_0_qweight"] = raw
    refused(marked, tmp_path / "x", f"NaN or infinity: 1 of .* {LAYER}")


def test_unknown_quantisations_are_named(tmp_path: Path):
    marked = in_safetensors(state_of("one block"), "q8_0")
    blocks = marked.tensors.pop(f"{LAYER}.Q8_0_qweight")
    marked.tensors[f"{LAYER}.IQ4_NL_qweight"] = blocks
    refused(marked, tmp_path / "x", "unknown quantisation IQ4_NL; known are q4_0")
    marked.tensors[f"{LAYER}.Q8_0_qweight"] = marked.tensors.pop(f"{LAYER}.IQ4_NL_qweight")[:, :-1]
    refused(marked, tmp_path / "x", "no q8_0 blocks of 34 bytes")
    bits = {"x.weight.quant_state.bitsandbytes__nf4": torch.zeros(3, dtype=torch.uint8)}
    refused(Marked(bits, {}), tmp_path / "x", "bitsandbytes")


def test_a_part_that_is_there_twice_is_refused(tmp_path: Path):
    state = state_of("one block")
    both = {**state, **{f"ema.{name}": tensor.clone() for name, tensor in state.items()}}
    refused(Marked(both, {}), tmp_path / "x", r"AsymmDiT more than once: .*after 'ema\.'")


def test_descriptions_tell_layout_marking_and_parts(tmp_path: Path):
    state = state_of("one block")
    expected = {
        "fp8_scaled old, prefixed": "ComfyUI, fp8_scaled (old marking): dit",
        "fp8_scaled new": "original, fp8_scaled (new marking): dit",
        "fp8 cast": "original, float8_e4m3fn (a cast without scales): dit",
        "GGUF in .safetensors, Q4_0": "original, q4_0: dit",
    }
    for marking, line in expected.items():
        path = MARKINGS[marking](state).save(tmp_path / "x")
        assert Checkpoint.open(path).description == line
    write_gguf_file(tmp_path / "y", state, k_quant("q8_0"))
    assert Checkpoint.open(tmp_path / "y").description == "GGUF, original, q8_0: dit"
    save_file(state, tmp_path / "z")
    assert Checkpoint.open(tmp_path / "z").description == "original, float32: dit"
