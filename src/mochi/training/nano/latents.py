"""The transformer's training set: scenes of the world, encoded once."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mochi.core.latents import MOCHI_STATS, VaeLatent
from mochi.core.sizes import VideoSize
from mochi.model.encoder import Encoder
from mochi.training.checkpoint import load_checkpoint, save_checkpoint
from mochi.training.nano.recipe import NANO_SIZE
from mochi.training.shapes.world import Scene, all_combinations, held_out, render, scene_of

_BATCH = 16


@dataclass(frozen=True)
class LatentSet:
    """Scenes and their posteriors in VAE space, `(N, 12, t, h, w)` each.

    Raises:
        ValueError: the counts differ.
    """

    scenes: tuple[Scene, ...]
    mean: Tensor
    logvar: Tensor

    def __post_init__(self) -> None:
        if not len(self.scenes) == len(self.mean) == len(self.logvar):
            raise ValueError(f"{len(self.scenes)} scenes, {len(self.mean)} latents")

    def scaled(self, scale: Tensor) -> LatentSet:
        """The same with means multiplied per channel."""
        return LatentSet(self.scenes, self.mean * scale.view(1, -1, 1, 1, 1), self.logvar)

    def draw(self, rows: list[int], generator: torch.Generator) -> Tensor:
        """Normalised posterior samples of some rows: what the transformer learns to make."""
        noise = torch.randn(self.mean[rows].shape, generator=generator)
        sample = self.mean[rows] + (0.5 * self.logvar[rows]).exp() * noise
        return MOCHI_STATS.normalize(VaeLatent(sample)).tensor


def training_scenes(per_combination: int, seed: int) -> list[Scene]:
    """So many scenes of each combination that is not held out."""
    rng = np.random.default_rng([seed, 1])
    combinations = [combo for combo in all_combinations() if not held_out(combo)]
    return [scene_of(combo, rng) for combo in combinations for _ in range(per_combination)]


def pixels_of(scenes: list[Scene], size: VideoSize = NANO_SIZE) -> Tensor:
    """Rendered clips, float32 `(B, 3, T, H, W)` in [-1, 1]."""
    clips = np.stack([render(scene, size.frames, size.height, size.width) for scene in scenes])
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


@torch.no_grad()
def encode_scenes(encoder: Encoder, scenes: list[Scene]) -> Iterator[tuple[Tensor, Tensor]]:
    """Posterior mean and log-variance on the CPU, some scenes at a time."""
    device = encoder.output_proj.weight.device
    for start in range(0, len(scenes), _BATCH):
        posterior = encoder(pixels_of(scenes[start : start + _BATCH]).to(device))
        yield posterior.mean.cpu(), posterior.logvar.cpu()


def latent_set(encoder: Encoder, per_combination: int, seed: int, path: Path) -> LatentSet:
    """The training set, read from `path` when it is there, otherwise made and written."""
    state = load_checkpoint(path)
    if state is not None:
        scenes = tuple(Scene(**fields) for fields in json.loads(state["scenes"]))
        return LatentSet(scenes, state["mean"], state["logvar"])
    made = training_scenes(per_combination, seed)
    encoder = copy.deepcopy(encoder).bfloat16()  # as it was trained, and twice as fast
    means, logvars = zip(*encode_scenes(encoder, made), strict=True)
    latents = LatentSet(tuple(made), torch.cat(means), torch.cat(logvars))
    state = {
        "scenes": json.dumps([asdict(scene) for scene in made]),
        "mean": latents.mean,
        "logvar": latents.logvar,
    }
    save_checkpoint(path, state)
    return latents
