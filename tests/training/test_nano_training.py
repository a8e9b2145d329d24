"""Nano's training at toy size: it learns, it resumes exactly, and what it exports loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.toy import Stop, stopping

import mochi.training.nano.latents as latents_module
from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig, ModelConfig
from mochi.core.latents import MOCHI_STATS
from mochi.core.sizes import VideoSize
from mochi.training.checkpoints import Checkpoints
from mochi.training.nano.dit import TextToLatent, rotary_frequencies, train_dit
from mochi.training.nano.export import latent_scale, scale_decoder, scale_encoder
from mochi.training.nano.latents import LatentSet, latent_set, training_scenes
from mochi.training.nano.recipe import DitRecipe, NanoRecipe, TextRecipe, VaePhase, VaeRecipe
from mochi.training.nano.train import train_nano
from mochi.training.nano.vae import Autoencoder, train_vae
from mochi.training.shapes.world import all_combinations, held_out

TOY = ModelConfig(
    dit=DiTConfig(depth=1, heads=1, head_dim=32, visual_width=32, text_width=16, text_features=16),
    decoder=DecoderConfig(channels=(32, 32, 32, 32), blocks=(0, 0, 0, 0, 0)),
    encoder=EncoderConfig(channels=(32, 32, 32, 32), blocks=(0, 0, 0, 0, 0)),
)
SMALL = VideoSize(7, 32, 32)
VAE = VaeRecipe(phases=(VaePhase(3, 2, SMALL), VaePhase(2, 1, SMALL, encoder=False)), save_every=1)
DIT = DitRecipe(steps=5, everyday_steps=3, batch=4, scenes_per_combination=1, save_every=1)
TEXT = TextRecipe(depth=1, heads=1, head_dim=16, ffn_width=32)


def test_the_autoencoder_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_vae(TOY, VAE, tmp_path / "whole")
    for stop_after in (1, 3, 4):
        folder = tmp_path / str(stop_after)
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", stopping(stop_after))
            with pytest.raises(Stop):
                train_vae(TOY, VAE, folder)
        resumed = train_vae(TOY, VAE, folder)
        for name, weight in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], weight), (stop_after, name)


def test_a_frozen_encoder_stays(tmp_path: Path) -> None:
    recipe = replace(VAE, phases=(replace(VAE.phases[0], encoder=False),))
    torch.manual_seed(recipe.seed)
    before = Autoencoder(TOY)
    after = train_vae(TOY, recipe, tmp_path)
    for name, weight in before.encoder.state_dict().items():
        assert torch.equal(after.encoder.state_dict()[name], weight), name
    assert not torch.equal(before.decoder.output_proj.weight, after.decoder.output_proj.weight)


def test_the_training_set_has_no_held_out_combination() -> None:
    scenes = training_scenes(2, seed=0)
    assert len(scenes) == 2 * 454
    assert not any(held_out(scene.combo) for scene in scenes)


def test_scaling_gives_the_published_deviation_and_changes_no_picture() -> None:
    torch.manual_seed(0)
    model = Autoencoder(TOY).eval()
    pixels = torch.rand(2, 3, 13, 32, 32) * 2 - 1
    with torch.no_grad():
        mean = model.encoder(pixels).mean
        before = model.decoder(mean)
        scale = latent_scale(mean)
        scale_encoder(model.encoder, scale)
        scale_decoder(model.decoder, scale)
        scaled = model.encoder(pixels).mean
        after = model.decoder(scaled)
    deviation = scaled.transpose(0, 1).flatten(1).std(dim=1)
    assert torch.allclose(deviation, torch.tensor(MOCHI_STATS.std), rtol=1e-4)
    assert torch.allclose(after, before, atol=1e-4)


def test_rotary_frequencies_turn_with_one_axis_each() -> None:
    frequencies = rotary_frequencies(TOY.dit)
    assert torch.equal((frequencies != 0).sum(dim=0), torch.ones(1, 16, dtype=torch.long))
    assert float(frequencies[0].max()) == pytest.approx(torch.pi, rel=1e-3)
    assert torch.pi / 96 < float(frequencies[1].max()) <= torch.pi / 48


def test_the_transformer_learns_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    from mochi.text.wordlevel import build_word_tokenizer
    from mochi.training.shapes.captions import vocabulary

    tokenizer = AutoTokenizer.from_pretrained(
        build_word_tokenizer(vocabulary(), tmp_path / "tokenizer")
    )
    scenes = tuple(training_scenes(1, seed=0))
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(1, 12, 1, 4, 4, generator=generator).expand(len(scenes), -1, -1, -1, -1)
    latents = LatentSet(scenes, mean, torch.full_like(mean, -8.0))
    seen: list[float] = []
    recipe = replace(DIT, steps=150, everyday_steps=10, save_every=80)
    whole = train_dit(
        TOY.dit,
        TEXT,
        recipe,
        latents,
        tokenizer,
        tmp_path / "whole",
        lambda values: seen.append(values["loss"]),
    )
    assert seen[-1] < 0.8 * seen[0]

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stopping(1))
        with pytest.raises(Stop):
            train_dit(TOY.dit, TEXT, recipe, latents, tokenizer, tmp_path / "resumed")
    resumed = train_dit(TOY.dit, TEXT, recipe, latents, tokenizer, tmp_path / "resumed")
    assert isinstance(resumed, TextToLatent)
    for name, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name


def test_a_latent_set_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents_module, "all_combinations", lambda: all_combinations()[:12])
    torch.manual_seed(0)
    encoder = Autoencoder(TOY).encoder.eval()
    made = latent_set(encoder, 1, 0, tmp_path / "latents.pt")
    read = latent_set(encoder, 1, 0, tmp_path / "latents.pt")
    assert made.scenes == read.scenes
    assert torch.equal(made.mean, read.mean)
    drawn = made.draw([0, 1], torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 12, 5, 8, 8)


def test_from_scratch_to_a_model_that_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mochi

    monkeypatch.setattr(latents_module, "all_combinations", lambda: all_combinations()[:12])
    stages: list[str] = []
    recipe = NanoRecipe(model=TOY, text=TEXT, vae=VAE, dit=DIT)
    folder = train_nano(tmp_path, recipe, lambda stage, values: stages.append(stage))
    assert {*stages} == {"vae", "dit"}
    clip = mochi.load(folder).generate("a red circle", seed=0, frames=7, steps=2)
    assert clip.frames.shape == (7, 64, 64, 3)
