"""From every layout to every other and back, bit for bit; narrower and quantised; refusals."""

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.weights.models import as_dtype, random_model, write_original
from torch import Tensor

from mochi.core.errors import OutputError, RequestError, WeightsError
from mochi.weights.checkpoint import Checkpoint
from mochi.weights.convert import Conversion, Wishes, plan_conversion
from mochi.weights.quantize import BLOCK_FORMS, fp8_scale, is_quantised, to_fp8
from mochi.weights.source import open_path

State = dict[str, Tensor]
LAYOUTS = {
    "original": Wishes("original"),
    "diffusers": Wishes("diffusers", shard_bytes=60_000),
    "comfy": Wishes("comfy"),
    "all-in-one": Wishes("comfy", all_in_one=True),
    "gguf": Wishes("gguf"),
}


def convert(source: Path, destination: Path, wishes: Wishes, overwrite: bool = False) -> Conversion:
    plan = plan_conversion(open_path(source).source, destination, wishes)
    plan.write(overwrite)
    return plan


def states_of(folder: Path) -> dict[str, State]:
    """What a folder holds, under our names, decoded."""
    parts = open_path(folder).source.parts
    return {
        part: {name: view.read(name).dense() for name in view.shapes}
        for part, view in parts.items()
    }


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def assert_equal(found: dict[str, State], expected: dict[str, State]) -> None:
    assert found.keys() == expected.keys()
    for part, state in expected.items():
        assert found[part].keys() == state.keys()
        for name, tensor in state.items():
            assert found[part][name].dtype == tensor.dtype, name
            assert found[part][name].shape == tensor.shape, name
            assert bits(found[part][name]).equal(bits(tensor)), name


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    """A transformer in bf16 with float32 frequencies, the rest in three dtypes."""
    whole = random_model()
    halves = as_dtype(whole, torch.bfloat16)
    return {**whole, "dit": halves["dit"], "t5": as_dtype(whole, torch.float16)["t5"]}


@pytest.fixture(scope="module")
def original(states: dict[str, State], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original(tmp_path_factory.mktemp("tiny"), states)


@pytest.fixture(scope="module")
def written(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny model in a layout; not to be changed."""
    root = tmp_path_factory.mktemp("layouts")

    def make(layout: str) -> Path:
        if not (root / layout).exists():
            convert(original, root / layout, LAYOUTS[layout])
        return root / layout

    return make


# ----------------------------------------------------------------------------------- kept as it is


@pytest.mark.parametrize(("first", "second"), list(permutations(LAYOUTS, 2)))
def test_there_and_back_is_bit_for_bit_the_same(
    first: str,
    second: str,
    written: Callable[[str], Path],
    states: dict[str, State],
    tmp_path: Path,
):
    convert(written(first), tmp_path / "there", LAYOUTS[second])
    assert_equal(states_of(tmp_path / "there"), states)
    convert(tmp_path / "there", tmp_path / "back", LAYOUTS[first])
    ours = {p.relative_to(written(first)): p for p in written(first).rglob("*") if p.is_file()}
    theirs = {p.relative_to(tmp_path / "back"): p for p in (tmp_path / "back").rglob("*")}
    for name, path in ours.items():
        assert theirs[name].read_bytes() == path.read_bytes(), name


def test_a_narrower_model_has_its_values_rounded_and_its_frequencies_kept(
    original: Path, states: dict[str, State], tmp_path: Path
):
    for name in ("float32", "bfloat16", "float16"):
        dtype = getattr(torch, name)
        convert(original, tmp_path / name, Wishes("diffusers", dtype=name))
        for part, state in states_of(tmp_path / name).items():
            for key, tensor in state.items():
                wanted = torch.float32 if key == "pos_frequencies" else dtype
                assert tensor.equal(states[part][key].to(wanted)), key


def test_a_value_beyond_float16_is_refused_and_leaves_nothing(
    states: dict[str, State], tmp_path: Path
):
    dit = dict(states["dit"])
    dit["t5_yproj.weight"] = dit["t5_yproj.weight"] * 1e7
    write_original(tmp_path / "large", {**states, "dit": dit})
    with pytest.raises(WeightsError, match=r"t5_yproj\.weight that float16 cannot"):
        convert(tmp_path / "large", tmp_path / "new", Wishes("comfy", dtype="float16"))
    assert not (tmp_path / "new").exists()


# --------------------------------------------------------------------------------------- quantised


def quantised(states: dict[str, State], decode: Callable[[Tensor], Tensor]) -> State:
    """The transformer with its large layers replaced."""
    return {
        name: decode(tensor.float()) if is_quantised("dit", name) else tensor
        for name, tensor in states["dit"].items()
    }


def decoded_blocks(form: str) -> Callable[[Tensor], Tensor]:
    import gguf

    kind = gguf.GGMLQuantizationType[form.upper()]

    def decode(weight: Tensor) -> Tensor:
        if not BLOCK_FORMS[form].fits(tuple(weight.shape)):
            return weight.bfloat16()
        packed = gguf.quants.quantize(weight.numpy(), kind)
        return torch.from_numpy(gguf.quants.dequantize(packed, kind))

    return decode


def decoded_float8(weight: Tensor) -> Tensor:
    scale = fp8_scale(weight.abs().amax())
    return to_fp8(weight, scale).float() * scale


FORMS = [
    (Wishes("original", quantize="q4_0"), decoded_blocks("q4_0")),
    (Wishes("original", quantize="q8_0"), decoded_blocks("q8_0")),
    (Wishes("original", quantize="fp8"), lambda weight: to_fp8(weight).float()),
    (Wishes("comfy", quantize="fp8"), decoded_float8),
    (Wishes("comfy", quantize="fp8", marking="new"), decoded_float8),
    (Wishes("comfy", quantize="fp8", all_in_one=True), decoded_float8),
    (Wishes("comfy", quantize="fp8", all_in_one=True, marking="new"), decoded_float8),
    (Wishes("gguf", quantize="q4_0"), decoded_blocks("q4_0")),
    (Wishes("gguf", quantize="q8_0"), decoded_blocks("q8_0")),
]


@pytest.mark.parametrize(("wishes", "decode"), FORMS)
def test_quantised_weights_decode_to_what_their_form_can_say(
    original: Path,
    states: dict[str, State],
    tmp_path: Path,
    wishes: Wishes,
    decode: Callable[[Tensor], Tensor],
):
    convert(original, tmp_path / "small", wishes)
    found, expected = states_of(tmp_path / "small")["dit"], quantised(states, decode)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].equal(tensor), name
    # kept as it is, and decoded into another layout
    kept = Wishes(wishes.to, marking=wishes.marking, all_in_one=wishes.all_in_one)
    convert(tmp_path / "small", tmp_path / "again", kept)
    for path in (tmp_path / "small").rglob("*"):
        again = tmp_path / "again" / path.relative_to(tmp_path / "small")
        assert path.is_dir() or again.read_bytes() == path.read_bytes(), path.name
    convert(tmp_path / "small", tmp_path / "wide", Wishes("diffusers", dtype="float32"))
    wide = states_of(tmp_path / "wide")["dit"]
    assert all(wide[name].equal(tensor.float()) for name, tensor in expected.items())


def test_both_markings_of_float8_as_comfyui_reads_them(original: Path, tmp_path: Path):
    for marking, label in (("old", "scale_weight"), ("new", "weight_scale")):
        wishes = Wishes("comfy", quantize="fp8", marking=marking)  # type: ignore[arg-type]
        convert(original, tmp_path / marking, wishes)
        state = load_file(tmp_path / marking / "mochi_fp8_scaled.safetensors")
        text = load_file(tmp_path / marking / "t5xxl_fp8_scaled.safetensors")
        layer = "blocks.0.attn.qkv_x"
        assert state[f"{layer}.weight"].dtype == torch.float8_e4m3fn
        assert state[f"{layer}.{label}"].dtype == torch.float32
        assert state[f"{layer}.{label}"].ndim == 0
        assert text["shared.weight"].dtype == torch.float16
        assert f"encoder.block.1.layer.1.DenseReluDense.wo.{label}" in text
        if marking == "old":
            assert state["scaled_fp8"].dtype == torch.float8_e4m3fn
            assert state["scaled_fp8"].numel() == 2
            assert not any(name.endswith(".comfy_quant") for name in state)
        else:
            assert "scaled_fp8" not in state
            config = json.loads(bytes(state[f"{layer}.comfy_quant"].tolist()))
            assert config == {"format": "float8_e4m3fn"}
    old = Checkpoint.open(tmp_path / "old" / "mochi_fp8_scaled.safetensors").parts["dit"]
    new = Checkpoint.open(tmp_path / "new" / "mochi_fp8_scaled.safetensors").parts["dit"]
    for name in old.shapes:
        assert bits(old.read(name).dense()).equal(bits(new.read(name).dense()))


def test_blocks_in_safetensors_have_the_names_of_the_community(original: Path, tmp_path: Path):
    convert(
        original, tmp_path, Wishes("original", dtype="float16", quantize="q4_0", parts=("dit",))
    )
    state = load_file(tmp_path / "dit.safetensors")
    assert state["blocks.0.attn.qkv_x.Q4_0_qweight"].dtype == torch.uint8
    assert state["blocks.0.attn.proj_x.bias"].dtype == torch.float16
    assert state["blocks.0.attn.qkv_x.Q4_0_qweight"].shape == (96, 18)
    assert "blocks.0.attn.qkv_x.weight" not in state
    assert "blocks.0.attn.qkv_y.weight" in state  # 24 inputs are no whole block


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"to": "onnx"}, "to='onnx' is unknown; nearest: original, diffusers, comfy, gguf"),
        ({"to": "comfy", "dtype": "int8"}, "dtype='int8' is unknown"),
        ({"to": "comfy", "parts": ("vae",)}, "parts='vae' is unknown"),
        ({"to": "diffusers", "quantize": "q4_0"}, "keeps none; nearest: to original or to gguf"),
        (
            {"to": "gguf", "quantize": "fp8"},
            "keeps q8_0 and q4_0; nearest: to original or to comfy",
        ),
        ({"to": "gguf", "quantize": "q5_1"}, "nearest: q8_0, q4_0, fp8"),
        ({"to": "gguf", "all_in_one": True}, "all_in_one=True is not possible to gguf"),
        ({"to": "comfy", "marking": "blue"}, "marking='blue' is unknown; nearest: old, new"),
        ({"to": "diffusers", "shard_bytes": 0}, "shard_bytes=0 holds nothing"),
    ],
)
def test_wishes_that_cannot_be_met(words: dict[str, object], message: str):
    with pytest.raises(RequestError) as caught:
        Wishes(**words)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_what_the_target_cannot_hold_is_an_error_that_names_it(original: Path, tmp_path: Path):
    convert(original, tmp_path / "q", Wishes("original", quantize="q4_0"))
    with pytest.raises(WeightsError, match=r"keeps blocks\.\S+ as q4_0, which a ComfyUI file"):
        convert(tmp_path / "q", tmp_path / "new", Wishes("comfy"))
    assert not (tmp_path / "new").exists()


def test_a_damaged_source_is_reported_before_anything_is_written(
    states: dict[str, State], tmp_path: Path
):
    dit = dict(states["dit"])
    del dit["blocks.1.attn.proj_x.bias"]
    write_original(tmp_path / "bad", {**states, "dit": dit})
    with pytest.raises(WeightsError, match=r"missing: blocks\.1\.attn\.proj_x\.bias"):
        convert(tmp_path / "bad", tmp_path / "new", Wishes("comfy"))
    assert not (tmp_path / "new").exists()


def test_a_broken_file_is_not_left_out_silently(states: dict[str, State], tmp_path: Path):
    source = write_original(tmp_path / "bad", states)
    encoder = source / "encoder.safetensors"
    encoder.write_bytes(encoder.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=r"encoder\.safetensors: is truncated"):
        convert(source, tmp_path / "new", Wishes("original"))
    assert not (tmp_path / "new").exists()
    convert(source, tmp_path / "new", Wishes("original", parts=("dit",)))
    assert (tmp_path / "new" / "dit.safetensors").exists()


def test_one_file_is_enough_for_one_file_only(original: Path, tmp_path: Path):
    with pytest.raises(OutputError, match="names one file, and 3 are needed"):
        convert(original, tmp_path / "a.safetensors", Wishes("comfy"))
    with pytest.raises(OutputError, match=r"these weights are a \.gguf file"):
        convert(original, tmp_path / "a.safetensors", Wishes("gguf", parts=("dit",)))
    convert(original, tmp_path / "a.safetensors", Wishes("comfy", all_in_one=True))
    convert(original, tmp_path / "b.gguf", Wishes("gguf", parts=("dit",)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.gguf"]


def test_what_is_no_model_is_refused(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"blocks.0.attn.qkv_x.lora_A": torch.ones(2, 4)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="holds no part of Mochi"):
        convert(tmp_path / "a.safetensors", tmp_path / "new", Wishes("diffusers"))
    assert not (tmp_path / "new").exists()


def test_parts(original: Path, tmp_path: Path):
    convert(original, tmp_path / "a", Wishes("original", parts=("decoder", "t5")))
    names = {p.relative_to(tmp_path / "a").as_posix() for p in (tmp_path / "a").rglob("*.*")}
    assert names == {
        "decoder.safetensors",
        "mochi.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
    }
    dit = open_path(original / "dit.safetensors").source
    with pytest.raises(WeightsError, match="holds no t5; it has dit"):
        plan_conversion(dit, tmp_path / "b", Wishes("original", parts=("t5",)))


def test_a_component_of_a_diffusers_folder_alone(
    written: Callable[[str], Path], states: dict[str, State], tmp_path: Path
):
    convert(written("diffusers") / "transformer", tmp_path / "a.safetensors", Wishes("original"))
    assert_equal(states_of(tmp_path / "a.safetensors"), {"dit": states["dit"]})
    convert(written("diffusers") / "vae", tmp_path / "vae", Wishes("original"))
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == [
        "decoder.safetensors",
        "encoder.safetensors",
    ]


def test_shards_of_an_earlier_conversion_go(original: Path, tmp_path: Path):
    convert(original, tmp_path, Wishes("diffusers", shard_bytes=60_000, parts=("dit",)))
    (tmp_path / "transformer" / "mine.txt").write_text("")
    with pytest.raises(OutputError, match="exists; --overwrite replaces it"):
        convert(original, tmp_path, Wishes("diffusers", parts=("dit",)))
    convert(original, tmp_path, Wishes("diffusers", parts=("dit",)), overwrite=True)
    assert sorted(path.name for path in (tmp_path / "transformer").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "mine.txt",
    ]


def test_two_layouts_in_one_folder_are_refused(original: Path, tmp_path: Path):
    convert(original, tmp_path, Wishes("original"))
    with pytest.raises(OutputError, match="holds a model in the layout original already"):
        convert(original, tmp_path, Wishes("diffusers"), overwrite=True)


def test_a_model_can_be_converted_in_its_place(
    original: Path, states: dict[str, State], tmp_path: Path
):
    convert(original, tmp_path, Wishes("original"))
    convert(tmp_path, tmp_path, Wishes("original", dtype="bfloat16"), overwrite=True)
    assert_equal(states_of(tmp_path), as_dtype(states, torch.bfloat16))
