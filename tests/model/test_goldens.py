"""The networks against the published implementation's outputs, relative L2 at most 1e-5."""

from __future__ import annotations

import re

import pytest
import torch
from tests.model.golden import DECODER, DIT, ENCODER, Goldens, prompt_mask, relative, shrunk

from mochi.core.config import MOCHI_1
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder, fourier_features

LIMIT = 1e-5


@pytest.fixture(scope="module")
def dits(goldens: Goldens) -> dict[str, AsymmDiT]:
    whole = goldens.filled(AsymmDiT(DIT), "dit.safetensors")
    small = goldens.filled(AsymmDiT(DIT), "dit.safetensors", shrunk)
    return {"dit": whole, "dit_small": small}


def test_every_golden_velocity(goldens: Goldens, dits: dict[str, AsymmDiT]) -> None:
    keys = [key for key in goldens.reference if key.startswith("dit")]
    assert len(keys) >= 12
    for key in keys:
        which, size, tokens, sigma = key.split("/")
        found = re.fullmatch(r"T(\d+)H(\d+)W(\d+)", size)
        assert found is not None
        t, h, w = (int(number) for number in found.groups())
        velocity = dits[which](
            goldens.tensor(f"x{t}{h}{w}", 1, 12, t, h, w),
            torch.tensor([float(sigma[1:])]),
            goldens.tensor("yfeat", 1, 256, 64),
            prompt_mask(int(tokens[1:])),
        )
        assert velocity.dtype == torch.float32
        assert relative(velocity, goldens.reference[key]) < LIMIT, key


@pytest.mark.parametrize("frames", [1, 3])
def test_decoder_whole_and_streamed(goldens: Goldens, frames: int) -> None:
    decoder = goldens.filled(Decoder(DECODER), "decoder.safetensors")
    latents = goldens.tensor(f"z{frames}", 1, 12, frames, 4, 6)
    reference = goldens.reference[f"dec/t{frames}"]
    assert relative(decoder(latents), reference) < LIMIT
    assert relative(torch.cat(list(decoder.stream(latents)), dim=2), reference) < LIMIT


@pytest.mark.parametrize("frames", [1, 7])
def test_encoder_whole_and_streamed(goldens: Goldens, frames: int) -> None:
    encoder = goldens.filled(Encoder(ENCODER), "encoder.safetensors")
    pixels = goldens.tensor(f"v{frames}", 1, 3, frames, 32, 48).tanh()
    whole, parts = encoder(pixels), list(encoder.stream(pixels))
    for name in ("mean", "logvar"):
        reference = goldens.reference[f"enc/T{frames}/{name}"]
        streamed = torch.cat([getattr(part, name) for part in parts], dim=2)
        assert relative(getattr(whole, name), reference) < LIMIT
        assert relative(streamed, reference) < LIMIT
    features = fourier_features(pixels, ENCODER.fourier)
    sums = goldens.reference[f"enc/T{frames}/fourier_sum"].flatten()
    assert relative(features.sum(dim=(0, 2, 3, 4)), sums) < 1e-4


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        networks = AsymmDiT(MOCHI_1.dit), Decoder(MOCHI_1.decoder), Encoder(MOCHI_1.encoder)
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts == [10_027_677_744, 362_526_595, 97_222_016]


def test_published_names_and_shapes(goldens: Goldens) -> None:
    for network, file in (
        (AsymmDiT(DIT), "dit.safetensors"),
        (Decoder(DECODER), "decoder.safetensors"),
        (Encoder(ENCODER), "encoder.safetensors"),
    ):
        ours = {name: tuple(p.shape) for name, p in network.state_dict().items()}
        assert ours == {name: tuple(w.shape) for name, w in goldens.weights(file).items()}
