"""The networks at real width against diffusers, an independent implementation.

The encoder and the transformer agree with it. The decoder must not: diffusers drops the surplus
frames of all three expansions once, at the end (SPEC 4), and so differs in the first frames.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.model.golden import relative

from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder
from mochi.weights.layouts import DIFFUSERS_DECODER, DIFFUSERS_DIT, DIFFUSERS_ENCODER
from mochi.weights.names import Table

diffusers = pytest.importorskip("diffusers")


def give_weights(table: Table, ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Random weights to both, float32, shared in memory where the layouts allow."""
    generator = torch.Generator().manual_seed(5)
    for parameter in ours.parameters():
        spread = 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    names = table.from_ours(ours.state_dict())
    state = {
        key: tensor
        for name, weight in ours.state_dict().items()
        for key, tensor in names.to_theirs(name, weight).items()
    }
    report = theirs.load_state_dict(state, strict=False, assign=True)
    assert not report.unexpected_keys
    ours.eval()
    theirs.eval()


def test_transformer_at_real_width() -> None:
    config = DiTConfig(depth=2, text_features=64)
    ours = AsymmDiT(config)
    with torch.device("meta"):
        theirs: Any = diffusers.MochiTransformer3DModel(num_layers=2, text_embed_dim=64)
    give_weights(DIFFUSERS_DIT, ours, theirs)
    generator = torch.Generator().manual_seed(6)
    z = torch.randn(2, 12, 2, 4, 6, generator=generator)
    text = torch.randn(2, 7, 64, generator=generator)
    mask = torch.arange(7)[None] < torch.tensor([[7], [3]])
    sigma = torch.tensor([0.9, 0.2])
    expected = theirs(
        hidden_states=z,
        encoder_hidden_states=text,
        timestep=1000 * (1 - sigma),
        encoder_attention_mask=mask,
        return_dict=False,
    )[0]
    assert relative(ours(z, sigma, text, mask), expected) < 1e-5


def test_encoder_at_real_width() -> None:
    ours = Encoder(EncoderConfig(blocks=(1, 1, 1, 1, 1)))
    theirs: Any = diffusers.AutoencoderKLMochi(layers_per_block=(1, 1, 1, 1, 1))
    give_weights(DIFFUSERS_ENCODER, ours, theirs)
    pixels = torch.rand(1, 3, 13, 16, 16, generator=torch.Generator().manual_seed(7)) * 2 - 1
    expected = theirs.encode(pixels).latent_dist
    found = ours(pixels)
    assert relative(found.mean, expected.mean) < 1e-5
    assert relative(found.logvar, expected.logvar) < 1e-5


def test_diffusers_decoder_differs_in_the_first_frames_only() -> None:
    config = DecoderConfig(channels=(64, 64, 32, 32), blocks=(1, 1, 1, 1, 1))
    ours = Decoder(config)
    theirs: Any = diffusers.AutoencoderKLMochi(
        decoder_block_out_channels=(32, 32, 64, 64), layers_per_block=(1, 1, 1, 1, 1)
    )
    give_weights(DIFFUSERS_DECODER, ours, theirs)
    latents = torch.randn(1, 12, 12, 2, 2, generator=torch.Generator().manual_seed(8))
    found, expected = ours(latents), theirs.decode(latents).sample
    assert found.shape == expected.shape
    errors = [relative(found[:, :, t], expected[:, :, t]) for t in range(found.shape[2])]
    assert min(errors[:3]) > 1e-2
    assert max(errors[40:]) < 1e-5
