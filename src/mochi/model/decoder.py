"""AsymmVAE's decoder: latents to frames, in one piece or as a stream (SPEC 4)."""

# Shapes: B batch, C channels, T frames, H W pixels.

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.config import SPACE_STEP, DecoderConfig
from mochi.core.errors import RequestError
from mochi.model.causal import ResBlock, linear_on_channels
from mochi.model.exchange import FrameExchange, FrameStream, WholeVideo
from mochi.model.layers import Linear


class Decoder(nn.Module):
    """Un-normalised latents to RGB in about [-1, 1]; computes in its weights' dtype."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        first, last = config.channels[0], config.channels[-1]
        stages: list[nn.Module] = [
            nn.ModuleList([nn.Conv3d(config.latent_channels, first, kernel_size=1)])
        ]
        stages[0].extend(ResBlock(first) for _ in range(config.blocks[0]))  # type: ignore[operator]
        for index, time_step in enumerate(config.time_expansions):
            before, after = config.channels[index : index + 2]
            # Block counts before an expansion: the stage that holds it.
            stages.append(UpBlock(before, after, config.blocks[index + 1], time_step))
        stages.append(nn.ModuleList(ResBlock(last) for _ in range(config.blocks[-1])))
        self.blocks = nn.ModuleList(stages)
        self.output_proj = Linear(last, 3)

    def forward(self, latents_BCTHW: Tensor) -> Tensor:
        """The whole video at once.

        Args:
            latents_BCTHW: VAE-space latents `(B, 12, t, h, w)`.

        Returns:
            Pixels, float32 `(B, 3, 6 (t - 1) + 1, 8 h, 8 w)`, not clamped; frames are
            `(x + 1) / 2` clamped to [0, 1].

        Raises:
            RequestError: the latents have another shape.
        """
        self._check(latents_BCTHW)
        return self.decode_chunk(latents_BCTHW, WholeVideo())

    def stream(self, latents_BCTHW: Tensor, chunk: int = 1) -> Iterator[Tensor]:
        """The same pixels, `chunk` latent frames at a time; memory does not grow with length.

        The first chunk of n latent frames gives `6 (n - 1) + 1` frames, each later one `6 n`.

        Raises:
            RequestError: the latents have another shape, or `chunk` is not positive.
        """
        self._check(latents_BCTHW)
        if chunk < 1:
            raise RequestError("chunk", chunk, "must be at least 1 latent frame", 1)
        frames = FrameStream()
        for part in latents_BCTHW.split(chunk, dim=2):
            yield self.decode_chunk(part, frames)
            frames.advance()

    def decode_chunk(self, latents_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        """Pixels of some latent frames; `frames` brings what came before them."""
        x = latents_BCTHW.to(self.output_proj.weight.dtype)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        for stage in self.blocks:
            if isinstance(stage, UpBlock):
                x = stage(x, frames)
                continue
            for layer in stage:  # type: ignore[attr-defined]
                x = layer(x, frames) if isinstance(layer, ResBlock) else layer(x)
        return linear_on_channels(self.output_proj, F.silu(x)).float()

    def _check(self, latents_BCTHW: Tensor) -> None:
        shape, channels = tuple(latents_BCTHW.shape), self.config.latent_channels
        if len(shape) != 5 or shape[1] != channels or 0 in shape:
            raise RequestError("latents", shape, f"is not (batch, {channels}, t, h, w)")


class UpBlock(nn.Module):
    """Residual blocks, then channels become time and space."""

    def __init__(self, before: int, after: int, blocks: int, time_step: int):
        super().__init__()
        self.time_step = time_step
        self.blocks = nn.ModuleList(ResBlock(before) for _ in range(blocks))
        self.proj = Linear(before, after * time_step * SPACE_STEP**2)

    def forward(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        for block in self.blocks:
            x_BCTHW = block(x_BCTHW, frames)
        packed = linear_on_channels(self.proj, x_BCTHW)
        expanded = depth_to_space_time(packed, self.time_step, SPACE_STEP)
        # The first latent frame stands for one frame only. Dropping here, before the next layer
        # looks back, is not the same as dropping all surplus frames at the end (SPEC 4).
        return expanded[:, :, self.time_step - 1 :] if frames.at_start else expanded


def depth_to_space_time(x_BPTHW: Tensor, time: int, space: int) -> Tensor:
    """Channels packed as (C, time, space, space) to `(B, C, T * time, H * space, W * space)`.

    The result is in channels-last memory order.
    """
    batch, _, frames, height, width = x_BPTHW.shape
    x = x_BPTHW.unflatten(1, (-1, time, space, space))  # B C st sh sw T H W
    x = x.permute(0, 5, 2, 6, 3, 7, 4, 1)  # B T st H sh W sw C
    return x.reshape(batch, frames * time, height * space, width * space, -1).movedim(-1, 1)
