"""The sizes of a checkpoint are read off its shapes, whatever they are."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.core.config import MOCHI_1, DecoderConfig, DiTConfig, EncoderConfig
from mochi.core.errors import WeightsError
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder
from mochi.weights.sizes import decoder_config, dit_config, encoder_config

Shapes = dict[str, tuple[int, ...]]
NETWORKS = {DiTConfig: AsymmDiT, DecoderConfig: Decoder, EncoderConfig: Encoder}
READERS = {DiTConfig: dit_config, DecoderConfig: decoder_config, EncoderConfig: encoder_config}


def shapes_of(config: DiTConfig | DecoderConfig | EncoderConfig) -> Shapes:
    with torch.device("meta"):
        network = NETWORKS[type(config)](config)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    "config",
    [
        MOCHI_1.dit,
        MOCHI_1.decoder,
        MOCHI_1.encoder,
        DiTConfig(depth=1, heads=1, head_dim=8, visual_width=8, text_width=5, text_features=8),
        DecoderConfig(channels=(128, 96, 64, 32), blocks=(1, 1, 1, 2, 0)),
        DecoderConfig(channels=(32, 32, 32, 32), blocks=(0, 0, 0, 0, 0)),
        DecoderConfig(time_expansions=(1, 2, 3)),
        EncoderConfig(channels=(32, 64, 96, 128), blocks=(0, 1, 1, 1, 1)),
        EncoderConfig(channels=(32, 32, 32, 32), blocks=(0, 0, 0, 0, 0)),
        EncoderConfig(time_reductions=(6, 1, 1)),
    ],
    ids=repr,
)
def test_a_network_of_any_size_is_recognised(config: DiTConfig | DecoderConfig | EncoderConfig):
    assert READERS[type(config)](shapes_of(config)) == config


def test_the_reference_checkpoints(shared: Path):
    shapes = json.loads((shared / "goldens" / "shapes.json").read_text())
    dit = dit_config(shapes["dit.safetensors"])
    assert (dit.depth, dit.heads, dit.visual_width, dit.text_width) == (3, 3, 192, 96)
    assert (dit.text_features, dit.visual_ffn, dit.text_ffn) == (64, 512, 256)
    decoder = decoder_config(shapes["decoder.safetensors"])
    assert (decoder.channels, decoder.blocks) == ((192, 128, 64, 32), (1, 2, 2, 1, 1))
    assert decoder.time_expansions == (3, 2, 1)
    encoder = encoder_config(shapes["encoder.safetensors"])
    assert (encoder.channels, encoder.blocks) == ((32, 64, 128, 192), (1, 1, 2, 2, 1))
    assert encoder.time_reductions == (1, 2, 3)


small = st.integers(1, 4)
counts = st.tuples(*[st.integers(0, 2)] * 5)
times = st.permutations((1, 2, 3)).map(tuple)


@settings(max_examples=25)
@given(small, small, small, small, small)
def test_any_dit(depth: int, heads: int, half: int, text: int, features: int):
    config = DiTConfig(
        depth=depth,
        heads=heads,
        head_dim=2 * half,
        visual_width=2 * half * heads,
        text_width=text,
        text_features=8 * features,
    )
    assert dit_config(shapes_of(config)) == config


@settings(max_examples=25)
@given(st.tuples(small, small, small, small), counts, times)
def test_any_vae(widths: tuple[int, ...], blocks: tuple[int, ...], time: tuple[int, ...]):
    channels = tuple(32 * width for width in widths)
    decoder = DecoderConfig(channels=channels, blocks=blocks, time_expansions=time)
    assert decoder_config(shapes_of(decoder)) == decoder
    encoder = EncoderConfig(channels=channels, blocks=blocks, time_reductions=time)
    assert encoder_config(shapes_of(encoder)) == encoder


@pytest.mark.parametrize(
    ("config", "name", "shape", "says"),
    [
        (DecoderConfig(), "blocks.2.proj.weight", None, "blocks.N.proj"),
        (DecoderConfig(), "blocks.9.proj.weight", (1, 1), "blocks.N.proj"),
        (DecoderConfig(), "output_proj.weight", (3, 7), "norm groups"),
        (EncoderConfig(), "layers.9.layers.0.weight", (1, 1, 1, 1, 1), "layers.N.layers"),
        (EncoderConfig(), "layers.4.layers.0.weight", (128, 64, 4, 2, 2), "by other than 6"),
        (DiTConfig(depth=1), "blocks.99999.mod_x.bias", (1,), "and blocks up to number 99999"),
        (DiTConfig(depth=1), "t_embedder.mlp.0.weight", (3072, 255), "odd number"),
    ],
)
def test_sizes_that_contradict_are_named(
    config: DiTConfig | DecoderConfig | EncoderConfig,
    name: str,
    shape: tuple[int, ...] | None,
    says: str,
):
    shapes = shapes_of(config)
    if shape is None:  # a whole layer
        shapes = {n: s for n, s in shapes.items() if not n.startswith(name.removesuffix("weight"))}
    else:
        shapes[name] = shape
    if "output_proj" in name:  # no residual block outvotes it
        shapes = {n: s for n, s in shapes.items() if not n.startswith("blocks.4.")}
    with pytest.raises(WeightsError, match=says):
        READERS[type(config)](shapes)


@pytest.mark.parametrize("reader", READERS.values())
def test_nothing_at_all_is_an_error_of_ours(reader: object):
    assert callable(reader)
    for shapes in ({}, {"a": (1,)}, {"blocks.0.x": (), "layers.1.layers.0.weight": ()}):
        with pytest.raises(WeightsError):
            reader(shapes)
