"""A video through the VAE and back, and how much is lost on the way."""

# Shapes: B batch, C channels, T frames, H W pixels.

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mochi.core.errors import RequestError
from mochi.core.events import FramesDone
from mochi.core.latents import VaeLatent
from mochi.core.sizes import VideoSize
from mochi.pipeline.budget import Budget
from mochi.pipeline.job import Job
from mochi.pipeline.parts import Parts
from mochi.pipeline.recovery import Recovery
from mochi.pipeline.run import TakeFrames, to_frames
from mochi.pipeline.watch import Watch

PEAK = 255.0


@dataclass
class Psnr:
    """Peak signal-to-noise ratio over frames that come in parts."""

    squared_error: int = 0
    values: int = 0

    def add(self, original: np.ndarray, copy: np.ndarray) -> None:
        """Two uint8 arrays of one shape."""
        difference = original.astype(np.int32) - copy.astype(np.int32)
        self.squared_error += int(np.sum(difference * difference, dtype=np.int64))
        self.values += difference.size

    @property
    def decibels(self) -> float:
        """`10 log10(255^2 / mean squared error)`; infinite for a perfect copy."""
        if not self.squared_error:
            return math.inf
        return 10 * math.log10(PEAK**2 * self.values / self.squared_error)


def encode(parts: Parts, frames: np.ndarray, watch: Watch) -> VaeLatent:
    """The most likely latent of frames, uint8 `(T, H, W, 3)`; VAE space, on the CPU.

    Raises:
        RequestError: frames not 6k+1, or height or width not a multiple of 16.
        WeightsError: the model has no encoder, or an unusable one.
    """
    size_of(frames)
    encoder = parts.encoder()
    pixels = to_pixels(frames).to(parts.device)
    with torch.no_grad():
        means = []
        for posterior in encoder.stream(pixels):
            watch.cancel.check()
            means.append(posterior.mode().tensor.cpu())
    return VaeLatent(torch.cat(means, dim=2))


def round_trip(
    parts: Parts, budget: Budget, frames: np.ndarray, take: TakeFrames, watch: Watch
) -> float:
    """Encode frames, decode them again, hand the copy on; returns its PSNR in dB.

    Raises:
        RequestError, WeightsError: as `encode`.
        DoesNotFitError: not enough memory.
    """
    size = size_of(frames)
    budget.arrange(budget.plan(Job(size, encodes=True)), watch.notice)
    latent = Recovery(parts, watch).attempt(
        "encode", ("decode",), lambda: _encoded(parts, frames, watch)
    )
    psnr, done = Psnr(), 0
    with watch.phase("decode", total=size.frames), torch.no_grad():
        for pixels in parts.decoder().stream(latent.tensor.to(parts.device)):
            watch.cancel.check()
            copy = to_frames(pixels)
            take(copy)
            psnr.add(frames[done : done + len(copy)], copy)
            done += len(copy)
            watch.on_event(FramesDone(done, size.frames))
    parts.done_with("decoder")
    return psnr.decibels


def _encoded(parts: Parts, frames: np.ndarray, watch: Watch) -> VaeLatent:
    with watch.phase("load"):
        parts.encoder()
    with watch.phase("encode"):
        latent = encode(parts, frames, watch)
    parts.done_with("encoder")
    return latent


def size_of(frames: np.ndarray) -> VideoSize:
    """The size of frames, uint8 `(T, H, W, 3)`, if the VAE takes it.

    Raises:
        RequestError: not such an array, or a size that breaks a rule.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        given = f"{frames.dtype} {frames.shape}"
        raise RequestError("frames", given, "are not uint8 (frames, height, width, 3)")
    return VideoSize(*frames.shape[:3])


def to_pixels(frames: np.ndarray) -> Tensor:
    """Uint8 `(T, H, W, 3)` to float32 `(1, 3, T, H, W)` in [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).unsqueeze(0)
    return tensor.float() / (PEAK / 2) - 1
