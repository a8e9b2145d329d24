"""What we write, loaded by the programs it is for: diffusers, transformers, gguf."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tests.weights.models import DECODER, DIT, ENCODER, TEXT, random_model, write_original
from torch import Tensor

from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig, T5Size
from mochi.weights.convert import Conversion, Wishes, plan_conversion
from mochi.weights.loading import load_decoder, load_dit, load_encoder
from mochi.weights.quantize import is_quantised
from mochi.weights.source import open_path

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

WIDE = DiTConfig(
    depth=2,
    heads=3,
    head_dim=32,
    visual_width=96,
    text_width=64,
    text_features=64,
    visual_ffn=256,
    text_ffn=170,
)
SIZES: dict[str, tuple[DiTConfig, DecoderConfig, EncoderConfig, T5Size]] = {
    "deep": (replace(DIT, depth=5), DECODER, ENCODER, replace(TEXT, depth=3)),
    "wide": (
        WIDE,
        DecoderConfig(channels=(128, 96, 64, 32), blocks=(2, 1, 1, 1, 1)),
        EncoderConfig(channels=(64, 32, 64, 96), blocks=(1, 1, 1, 1, 2)),
        T5Size(vocabulary=64, width=64, feed_forward=96, depth=1, heads=4, head_dim=16),
    ),
    "one block": (replace(WIDE, depth=1, text_width=48, text_ffn=128), DECODER, ENCODER, TEXT),
}


def convert(source: Path, destination: Path, wishes: Wishes) -> Conversion:
    plan = plan_conversion(open_path(source).source, destination, wishes)
    plan.write()
    return plan


@pytest.fixture(scope="module", params=SIZES)
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original(tmp_path_factory.mktemp("m"), random_model(*SIZES[request.param]))


@pytest.fixture(scope="module")
def folder(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a diffusers folder, its transformer in shards."""
    target = tmp_path_factory.mktemp("d") / "model"
    assert convert(original, target, Wishes("diffusers", shard_bytes=200_000)).notes == ()
    return target


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def their_velocity(theirs: Any, z: Tensor, sigma: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    return theirs(
        hidden_states=z,
        encoder_hidden_states=text,
        timestep=1000 * (1 - sigma),
        encoder_attention_mask=mask,
        return_dict=False,
    )[0]


def inputs(features: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(2, 12, 2, 6, 4, generator=generator)
    text = torch.randn(2, 9, features, generator=generator)
    return z, torch.tensor([0.3, 0.8]), text, torch.arange(9)[None] < torch.tensor([[9], [4]])


# --------------------------------------------------------------------------------------- diffusers


@torch.no_grad()
def test_diffusers_computes_the_same_velocity(original: Path, folder: Path):
    theirs = diffusers.MochiTransformer3DModel.from_pretrained(folder / "transformer").eval()
    ours = load_dit(original)
    given = inputs(ours.config.text_features)
    assert relative(their_velocity(theirs, *given), ours(*given)) < 1e-5


@torch.no_grad()
def test_diffusers_computes_the_same_latents_and_frames(original: Path, folder: Path):
    theirs = diffusers.AutoencoderKLMochi.from_pretrained(folder / "vae").eval()
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand(1, 3, 7, 16, 24, generator=generator) * 2 - 1
    found, expected = theirs.encode(pixels).latent_dist, load_encoder(original)(pixels)
    assert relative(found.mean, expected.mean) < 1e-5
    assert relative(found.logvar, expected.logvar) < 1e-5
    latents = torch.randn(1, 12, 9, 2, 2, generator=generator)
    frames, ours = theirs.decode(latents).sample, load_decoder(original)(latents)
    late = slice(40, None)  # SPEC 4: its first frames differ, whatever the weights
    assert relative(frames[:, :, late], ours[:, :, late]) < 1e-5


@torch.no_grad()
def test_transformers_computes_the_same_features(original: Path, folder: Path):
    from mochi.text.t5 import load_t5

    ids = torch.randint(2, 50, (2, 7), generator=torch.Generator().manual_seed(4))
    ours = load_t5(folder / "text_encoder")(ids).last_hidden_state
    for path in (folder, convert_t5(original, folder.parent / "original")):
        theirs = transformers.T5EncoderModel.from_pretrained(path / "text_encoder").eval()
        assert theirs(ids).last_hidden_state.equal(ours)


def convert_t5(original: Path, target: Path) -> Path:
    if not target.exists():
        convert(original, target, Wishes("original", parts=("t5",)))
    return target


def test_a_model_that_diffusers_does_not_know_is_noted(tmp_path: Path):
    odd = random_model(
        replace(DIT, visual_ffn=96), DECODER, replace(ENCODER, blocks=(1, 1, 1, 2, 1))
    )
    source = write_original(tmp_path / "odd", odd)
    notes = convert(source, tmp_path / "new", Wishes("diffusers")).notes
    assert len(notes) == 2
    assert "a visual width of 32 an MLP of 85, this model has 96" in notes[0]
    assert "one list of block counts for both" in notes[1]


def test_the_scheduler_and_the_index_are_those_of_diffusers(folder: Path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    assert scheduler.config.invert_sigmas
    index = diffusers.MochiPipeline.load_config(folder)
    assert index["transformer"] == ["diffusers", "MochiTransformer3DModel"]
    assert index["force_zeros_for_empty_prompt"]


def test_the_whole_pipeline_of_diffusers_runs_from_a_folder_of_ours(tmp_path: Path):
    import shutil

    from mochi.pipeline.models import nano_folder

    model = random_model(text=replace(TEXT, vocabulary=346))
    source = write_original(tmp_path / "original", model)
    shutil.copytree(nano_folder() / "tokenizer", source / "tokenizer", dirs_exist_ok=True)
    convert(source, tmp_path / "new", Wishes("diffusers"))
    pipe = diffusers.MochiPipeline.from_pretrained(tmp_path / "new")
    pipe.set_progress_bar_config(disable=True)
    words = {"height": 16, "width": 16, "num_frames": 7, "num_inference_steps": 2}
    frames = pipe("a red circle", output_type="np", **words).frames
    assert frames.shape == (1, 7, 16, 16, 3)


# -------------------------------------------------------------------------------------------- gguf


@pytest.mark.parametrize("form", ["q4_0", "q8_0"])
def test_the_gguf_package_decodes_our_blocks_to_the_weights(
    original: Path, tmp_path: Path, form: str
):
    convert(original, tmp_path / "a.gguf", Wishes("gguf", quantize=form, parts=("dit",)))  # type: ignore[arg-type]
    state, kind = load_dit(original).state_dict(), gguf.GGMLQuantizationType[form.upper()]
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert {tensor.name for tensor in reader.tensors} == state.keys()
    for tensor in reader.tensors:
        weight = state[tensor.name]
        packed = is_quantised("dit", tensor.name) and weight.shape[-1] % 32 == 0
        assert tensor.tensor_type == (kind if packed else gguf.GGMLQuantizationType.F32)
        found = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        if packed:
            expected = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
            assert found.equal(torch.from_numpy(expected))
        else:
            assert found.equal(weight)


def test_the_names_of_t5_are_those_of_the_gguf_package(original: Path, tmp_path: Path):
    convert(original, tmp_path / "t5.gguf", Wishes("gguf", parts=("t5",)))
    reader = gguf.GGUFReader(tmp_path / "t5.gguf")
    assert reader.fields["general.architecture"].contents() == "t5encoder"
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH.T5ENCODER, reader.fields["t5encoder.block_count"].contents()
    )
    parts = open_path(original).source.parts["t5"].shapes
    theirs = {names.get_name(name, try_suffixes=(".weight",)) for name in parts}
    assert {tensor.name for tensor in reader.tensors} == theirs


def test_transformers_reads_our_t5_as_gguf(original: Path, tmp_path: Path):
    """Its weights: the activation is not in such a file, and transformers takes another one."""
    convert(original, tmp_path / "t5.gguf", Wishes("gguf", parts=("t5",)))
    theirs = transformers.T5EncoderModel.from_pretrained(tmp_path, gguf_file="t5.gguf")
    view = open_path(original).source.parts["t5"]
    state = theirs.state_dict()
    assert all(state[name].equal(view.read(name).dense()) for name in view.shapes)
    assert theirs.config.num_layers == view.config.depth
    assert theirs.config.d_kv == view.config.head_dim


@pytest.mark.long
@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "wishes"),
    [
        ("a.safetensors", Wishes("comfy", parts=("dit",))),
        ("b.safetensors", Wishes("comfy", all_in_one=True)),
        ("c.gguf", Wishes("gguf", parts=("dit",))),
        ("d.gguf", Wishes("gguf", quantize="q8_0", parts=("dit",))),
        ("e.gguf", Wishes("gguf", quantize="q4_0", parts=("dit",))),
    ],
)
def test_diffusers_reads_single_files_of_the_published_depth(
    tmp_path: Path, name: str, wishes: Wishes
):
    """Its reader of single files knows 48 blocks only."""
    sizes = replace(WIDE, depth=48)
    source = write_original(tmp_path / "deep", random_model(sizes))
    folder = tmp_path / "config"
    convert(source, folder, Wishes("diffusers", parts=("dit",)))
    convert(source, tmp_path / name, wishes)
    quantised = diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32)
    theirs = diffusers.MochiTransformer3DModel.from_single_file(
        str(tmp_path / name),
        config=str(folder),
        subfolder="transformer",
        torch_dtype=torch.float32,
        quantization_config=quantised if name.endswith(".gguf") else None,
    ).eval()
    given = inputs(sizes.text_features)
    ours = load_dit(tmp_path / name)
    bound = 1e-5 if wishes.quantize is None else 2e-3  # it decodes blocks in float16
    assert relative(their_velocity(theirs, *given), ours(*given)) < bound
