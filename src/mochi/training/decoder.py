"""Fine-tuning of the VAE's decoder: latents of the clips' own pixels, back to those pixels."""

# Shapes: B clips, C latent channels, T frames, H W pixels.

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mochi.core.errors import RequestError, VideoError
from mochi.core.sizes import VideoSize
from mochi.model.decoder import Decoder
from mochi.model.encoder import Encoder
from mochi.parallel.world import World
from mochi.training.base import Base
from mochi.training.checkpoints import Checkpoints, FolderLock
from mochi.training.config import Config
from mochi.training.draws import order, row_generator
from mochi.training.ema import WeightAverage, averaged
from mochi.training.events import Finished, Reporter
from mochi.training.optim import make_optimiser
from mochi.training.precision import as_trainable
from mochi.training.result import write_network
from mochi.training.settings import identity_of, loop_of
from mochi.training.task import Outcome, Piece
from mochi.training.team import Team
from mochi.training.trainer import Trainer
from mochi.video.reader import read_video
from mochi.weights.loading import load_encoder
from mochi.weights.lora_files import sha256

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".gif")


class PixelClips:
    """Clips as pixels, cut to one size; each is read and encoded when it is first needed.

    Args:
        paths: video files.
        size: what is taken of each: its first frames, the middle of its pictures.
        encoder: makes the latents that the decoder learns to read.
        device: where.
    """

    def __init__(
        self, paths: Sequence[Path], size: VideoSize, encoder: Encoder, device: torch.device
    ):
        self.paths, self.size = tuple(paths), size
        self.names = tuple(path.name for path in self.paths)
        self._encoder, self._device = encoder, device
        self._kept: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def load(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels `(3, T, H, W)` in [-1, 1], and mean and deviation of the posterior in VAE space.

        Raises:
            VideoError: it cannot be read, or is too short; names the file.
        """
        if index not in self._kept:
            pixels = self._pixels(self.paths[index])
            with torch.no_grad():
                posterior = self._encoder(pixels.unsqueeze(0).to(self._device))
            deviation = (0.5 * posterior.logvar.float()).exp()
            self._kept[index] = pixels, posterior.mean[0].float().cpu(), deviation[0].cpu()
        return self._kept[index]

    def _pixels(self, path: Path) -> Tensor:
        frames = read_video(path, self.size)
        if len(frames) < self.size.frames:
            raise VideoError(f"{path}: has {len(frames)} frames, {self.size.frames} are needed")
        return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


class DecoderTask:
    """The decoder as a task: squared and absolute error of what it makes of posterior draws."""

    drops = False

    def __init__(self, decoder: Decoder, clips: PixelClips, config: Config, team: Team):
        self.parameters: dict[str, nn.Parameter] = as_trainable(decoder)
        self._decoder, self._clips, self._team = decoder, clips, team
        self._training = config.training
        self._device = next(decoder.parameters()).device

    def names(self, step: int) -> tuple[str, ...]:
        return tuple(self._clips.names[index] for index in self._chosen(step))

    def begin(self, step: int, average: WeightAverage | None) -> None:
        """Nothing changes on the way."""

    def learn(self, on: bool) -> None:
        """Nothing drops."""

    def pieces(self, step: int) -> Iterator[Piece]:
        chosen, mine = self._chosen(step), list(self._team.share(self._training.batch))
        most = -(-len(mine) // self._training.accumulate) if mine else 1
        for start in range(0, len(mine), most):
            places = mine[start : start + most]
            yield partial(self._outcome, step, places, [chosen[place] for place in places])

    def _chosen(self, step: int) -> list[int]:
        batch = self._training.batch
        return order(len(self._clips.names), step * batch, batch, self._training.seed)

    def _outcome(self, step: int, places: Sequence[int], indices: Sequence[int]) -> Outcome:
        pixels, latents = [], []
        for place, index in zip(places, indices, strict=True):
            generator = row_generator(self._training.seed, step, place)
            shown, mean, deviation = self._clips.load(index)
            pixels.append(shown)
            latents.append(mean + deviation * torch.randn(mean.shape, generator=generator))
        rebuilt = self._decoder(torch.stack(latents).to(self._device)).float()
        error = rebuilt - torch.stack(pixels).to(self._device)
        squared = error.square().flatten(1).mean(1)
        losses = 4 * squared + 0.5 * error.abs().flatten(1).mean(1)
        batch = self._training.batch
        psnr = (-10 * (squared.detach() / 4).log10()).sum() / batch
        return Outcome(losses.sum() / batch, tuple(places), losses.detach(), {"psnr": psnr})


def finetune_decoder(
    config: Config, *, device: str, world: World | None, reporters: Sequence[Reporter]
) -> Path:
    """As `finetune`, for `model.train = "decoder"`; returns the decoder's file."""
    team, began = Team(world), time.monotonic()
    folder = Path(config.saving.folder)
    lock = FolderLock(folder) if team.is_first else None
    try:
        base = Base.find(config, device if world is None else str(world.device))
        clips = _clips(config, base)
        decoder = base.decoder()
        task = DecoderTask(decoder, clips, config, team)
        identity = identity_of(config, base.fingerprint, _fingerprint(clips))
        checkpoints = Checkpoints(folder / "checkpoints", identity, config.saving.keep)
        optimiser = make_optimiser(config.optimiser, task.parameters)
        trainer = Trainer(task, loop_of(config), optimiser, checkpoints, team, reporters)
        steps = trainer.run(config.to_dict(), _facts(config, base, clips, task), folder)
        path = folder / "decoder.safetensors"
        with averaged(task.parameters, trainer.average):
            if team.is_first:
                write_network(decoder, path, torch.bfloat16)
        trainer.tell(Finished(steps, path, time.monotonic() - began))
        return path
    finally:
        if lock is not None:
            lock.release()


def _clips(config: Config, base: Base) -> PixelClips:
    folder, data = Path(config.data.path), config.data
    size = VideoSize(data.frames, data.height, data.width)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if not paths:
        rule = "holds no videos (mp4, mov, mkv, webm, gif)"
        raise RequestError("data.path", data.path, rule)
    encoder = load_encoder(base.pipe.files.part("encoder"), base.device, torch.float32)
    return PixelClips(paths, size, encoder.eval().requires_grad_(False), base.device)


def _fingerprint(clips: PixelClips) -> str:
    rows = [(path.name, sha256(path)) for path in clips.paths]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _facts(config: Config, base: Base, clips: PixelClips, task: DecoderTask) -> dict[str, Any]:
    return {
        "base": config.model.name,
        "base_sha256": base.fingerprint,
        "clips": len(clips.names),
        "trained_parameters": sum(p.numel() for p in task.parameters.values()),
    }
