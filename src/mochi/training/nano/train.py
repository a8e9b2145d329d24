"""All of nano's training in one call that can be stopped and started again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mochi.text.encoder import load_tokenizer
from mochi.text.wordlevel import build_word_tokenizer
from mochi.training.nano.dit import train_dit
from mochi.training.nano.export import export_nano, latent_scale, scale_decoder, scale_encoder
from mochi.training.nano.latents import latent_set
from mochi.training.nano.recipe import NanoRecipe
from mochi.training.nano.vae import train_vae
from mochi.training.shapes.captions import vocabulary

Report = Callable[[str, dict[str, float]], None]


def train_nano(folder: Path, recipe: NanoRecipe, report: Report, device: str = "cpu") -> Path:
    """Train nano in `folder`, going on from what is there, and export it to `folder/nano`.

    Args:
        folder: holds checkpoints (`vae`, `latents.pt`, `dit`) and the result.
        report: told a stage's name and its figures now and then.
        device: where to train.

    Raises:
        WeightsError: a checkpoint in `folder` is damaged or of another recipe.
    """
    vae = train_vae(recipe.model, recipe.vae, folder, lambda values: report("vae", values), device)
    latents = latent_set(
        vae.encoder, recipe.dit.scenes_per_combination, recipe.dit.seed, folder / "latents.pt"
    )
    scale = latent_scale(latents.mean)
    scale_encoder(vae.encoder, scale)
    scale_decoder(vae.decoder, scale)

    words = build_word_tokenizer(vocabulary(), folder / "tokenizer")
    tokenizer = load_tokenizer(words)
    networks = train_dit(
        recipe.model.dit,
        recipe.text,
        recipe.dit,
        latents.scaled(scale),
        tokenizer,
        folder,
        lambda values: report("dit", values),
        device,
    )
    return export_nano(folder / "nano", vae.encoder, vae.decoder, networks, words, recipe)
