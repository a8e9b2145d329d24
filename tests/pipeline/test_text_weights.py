"""T5 in every form that people have gives the features of its values."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.weights.marked import E5M2, Marked, State, fp8_scaled, write_gguf

from mochi.core.config import T5Size
from mochi.core.errors import WeightsError
from mochi.memory.stream import BlockStream, Carriage
from mochi.model.stored import StoredLinear, weight_bytes
from mochi.pipeline.text_weights import CheckpointT5
from mochi.text.encoder import TextEncoder
from mochi.text.t5 import build_t5, load_t5
from mochi.weights.checkpoint import Checkpoint
from mochi.weights.folder import ModelFiles

SIZE = T5Size(vocabulary=40, width=64, feed_forward=96, depth=3, heads=4, head_dim=8)
IDS = torch.tensor([[3, 38, 6, 17, 1]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers writes it."""
    generator = torch.Generator().manual_seed(0)
    model = build_t5(SIZE)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    place = tmp_path_factory.mktemp("t5")
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def state(folder: Path) -> State:
    return dict(load_file(folder / "model.safetensors"))


@torch.no_grad()
def features(source: object, dtype: torch.dtype = torch.float32, **options: bool) -> torch.Tensor:
    model = load_t5(source, dtype, **options)  # type: ignore[arg-type]
    found: torch.Tensor = model(IDS).last_hidden_state
    return found


def of(path: Path) -> CheckpointT5:
    return CheckpointT5(Checkpoint.open(path).part("t5"))


def meant(meaning: State, tmp_path: Path, folder: Path) -> torch.Tensor:
    """Features of plain float32 values, by the Hugging Face folder."""
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").write_text((folder / "config.json").read_text())
    save_file({name: tensor.contiguous() for name, tensor in meaning.items()},
              plain / "model.safetensors")  # fmt: skip
    return features(plain)


def test_a_file_alone_tells_its_sizes(folder: Path, state: State):
    weights = of(folder / "model.safetensors")
    assert weights.size == SIZE
    assert torch.equal(features(weights), features(folder))


def test_float16_is_computed_in_float32(folder: Path, state: State, tmp_path: Path):
    half = {name: tensor.half() for name, tensor in state.items()}
    half["encoder.embed_tokens.weight"] = half["shared.weight"].clone()  # some have it twice
    save_file(half, tmp_path / "t5xxl_fp16")
    got = features(of(tmp_path / "t5xxl_fp16"))
    expected = meant({n: t.float() for n, t in half.items() if "tokens" not in n}, tmp_path, folder)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def gguf_names(name: str) -> str:
    for ours, theirs in {
        "shared.": "token_embd.",
        "encoder.final_layer_norm.": "enc.output_norm.",
        "encoder.block.": "enc.blk.",
        ".layer.0.SelfAttention.relative_attention_bias": ".attn_rel_b",
        ".layer.0.SelfAttention.": ".attn_",
        ".layer.0.layer_norm": ".attn_norm",
        ".layer.1.layer_norm": ".ffn_norm",
        ".layer.1.DenseReluDense.wi_0": ".ffn_gate",
        ".layer.1.DenseReluDense.wi_1": ".ffn_up",
        ".layer.1.DenseReluDense.wo": ".ffn_down",
    }.items():
        name = name.replace(ours, theirs)
    return name


def in_gguf(state: State, path: Path) -> State:
    theirs = {gguf_names(name): tensor for name, tensor in state.items()}
    meaning = write_gguf(
        path,
        theirs,
        lambda name, tensor: (
            "q8_0"
            if tensor.ndim == 2 and tensor.shape[1] % 32 == 0 and "rel" not in name
            else "f32"
        ),
        architecture="t5encoder",
    )
    return {name: meaning[gguf_names(name)] for name in state}


FORMS: dict[str, Callable[[State, Path], State]] = {
    "fp8 scaled, old": lambda s, p: save(fp8_scaled(s, "old"), p),
    "fp8 scaled, new": lambda s, p: save(fp8_scaled(s, "new", input_scales=True), p),
    "fp8 scaled, e5m2": lambda s, p: save(fp8_scaled(s, "metadata", dtype=E5M2), p),
    "all-in-one": lambda s, p: save(
        fp8_scaled(s, "old", prefix="text_encoders.t5xxl.transformer."), p
    ),
    "GGUF of llama.cpp": in_gguf,
}


def save(marked: Marked, path: Path) -> State:
    marked.save(path)
    return marked.meaning


@pytest.mark.parametrize("form", FORMS)
def test_small_encoders_stay_small_and_mean_the_same(
    form: str, state: State, folder: Path, tmp_path: Path
):
    path = tmp_path / "weights"
    expected = meant(FORMS[form](state, path), tmp_path, folder)
    small, large = load_t5(of(path)), load_t5(of(path), dequantize=True)
    assert weight_bytes(small) < 0.4 * weight_bytes(large)
    assert any(isinstance(module, StoredLinear) for module in small.modules())
    assert not any(isinstance(module, StoredLinear) for module in large.modules())
    assert torch.equal(features(of(path)), expected)
    assert torch.equal(features(of(path), dequantize=True), expected)
    halves = [features(of(path), torch.bfloat16, dequantize=choice) for choice in (False, True)]
    assert torch.equal(*halves)
    assert halves[0].dtype == torch.bfloat16


def test_the_names_of_llama_cpp_are_those_of_the_gguf_package(state: State):
    import gguf

    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, SIZE.depth)
    for name in state:
        assert table.get_name(name, try_suffixes=(".weight",)) == gguf_names(name)


def test_a_streamed_encoder_reads_small_weights_too(
    state: State, folder: Path, tmp_path: Path, tiny_model: Path
):
    fp8_scaled(state, "old").save(tmp_path / "x")
    tokenizer = tiny_model / "tokenizer"
    for dtype in (torch.float32, torch.bfloat16):
        stream = BlockStream(Carriage(torch.device("cpu"), dtype))
        whole, streamed = (
            TextEncoder.from_folders(of(tmp_path / "x"), tokenizer, dtype, residency=residency)
            for residency in (None, stream)
        )
        pair = [encoder.encode(["a red circle", ""]).features for encoder in (whole, streamed)]
        assert torch.equal(*pair)


def test_lost_scales_of_a_text_encoder_are_noticed(state: State, tmp_path: Path):
    marked = fp8_scaled(state, "old")
    bare = {name: tensor for name, tensor in marked.tensors.items() if "scale" not in name}
    Marked(bare, {}).save(tmp_path / "x")
    with pytest.raises(WeightsError, match="fill the whole range of float8"):
        load_t5(of(tmp_path / "x"))


def test_another_t5_is_refused(state: State, tmp_path: Path):
    old = {
        name.replace("wi_0", "wi"): tensor for name, tensor in state.items() if "wi_1" not in name
    }
    save_file(old, tmp_path / "x")
    with pytest.raises(WeightsError, match=r"T5 v1\.0"):
        of(tmp_path / "x")
    damaged = {**state, "encoder.block.1.layer.1.DenseReluDense.wo.weight": torch.zeros(3, 3)}
    save_file(damaged, tmp_path / "x")
    with pytest.raises(WeightsError, match=r"wrong shape: encoder\.block\.1"):
        of(tmp_path / "x")


def test_a_config_beside_it_counts_and_a_foreign_one_does_not(
    folder: Path, tiny_model: Path, tmp_path: Path
):
    given = {"t5": (folder / "model.safetensors",)}
    files = ModelFiles.find(tiny_model, None, given)
    assert files.t5_config == folder / "config.json"
    assert torch.equal(features(CheckpointT5.of(files)), features(folder))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    other = ModelFiles.find(tiny_model, None, {"t5": (tmp_path / "model.safetensors",)})
    assert other.t5_config is None
    assert torch.equal(features(CheckpointT5.of(other)), features(folder))
