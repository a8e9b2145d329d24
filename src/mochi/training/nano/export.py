"""Trained networks to the folder that ships: the original three files, T5, and a card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mochi.core.latents import MOCHI_STATS
from mochi.model.decoder import Decoder
from mochi.model.encoder import Encoder
from mochi.training.nano.dit import TextToLatent
from mochi.training.nano.recipe import CARD_DEFAULTS, NanoRecipe


@torch.no_grad()
def latent_scale(mean: Tensor) -> Tensor:
    """Factor per channel that gives latents `(N, 12, t, h, w)` the published deviation."""
    return torch.tensor(MOCHI_STATS.std) / mean.transpose(0, 1).flatten(1).std(dim=1)


@torch.no_grad()
def scale_encoder(encoder: Encoder, scale: Tensor) -> None:
    """Fold a factor per latent channel into the last layer (means only: it has no bias)."""
    encoder.output_proj.weight[: scale.numel()] *= scale[:, None]


@torch.no_grad()
def scale_decoder(decoder: Decoder, scale: Tensor) -> None:
    """Undo `scale_encoder` in the first layer."""
    first = decoder.get_parameter("blocks.0.0.weight")
    first.div_(scale.view(1, -1, 1, 1, 1))


def export_nano(
    folder: Path,
    encoder: Encoder,
    decoder: Decoder,
    networks: TextToLatent,
    tokenizer_folder: Path,
    recipe: NanoRecipe,
) -> Path:
    """Write everything `mochi.load` reads; the VAE in bfloat16, as it was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "dit.safetensors", networks.dit.state_dict(), torch.float32)
    _save(folder / "decoder.safetensors", decoder.state_dict(), torch.bfloat16)
    _save(folder / "encoder.safetensors", encoder.state_dict(), torch.bfloat16)
    networks.text.save_pretrained(folder / "text_encoder")
    shutil.copytree(tokenizer_folder, folder / "tokenizer", dirs_exist_ok=True)
    card = {"name": "nano", "licence": "Apache-2.0", "dtype": "float32", "defaults": CARD_DEFAULTS}
    _write_json(folder / "mochi.json", card)
    return folder


def _save(path: Path, state: dict[str, Tensor], dtype: torch.dtype) -> None:
    partial = path.with_suffix(".part")
    save_file({name: t.to(dtype).contiguous() for name, t in state.items()}, partial)
    partial.replace(path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
