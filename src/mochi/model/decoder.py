"""AsymmVAE's decoder: latents to frames, in one piece or as a stream (SPEC 4)."""

# Shapes: B batch, C channels, T frames, H W pixels.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.config import SPACE_STEP, DecoderConfig
from mochi.core.errors import RequestError
from mochi.model.causal import ResBlock, lay_out, linear_on_channels
from mochi.model.exchange import FrameExchange, FrameStream, WholeVideo
from mochi.model.layers import Linear
from mochi.model.staged import Stage, frames_within, piece_bytes, through


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
        lay_out(self)
        return self.decode_chunk(latents_BCTHW, WholeVideo())

    def stream(
        self, latents_BCTHW: Tensor, chunk: int | None = None, keep_on: torch.device | None = None
    ) -> Iterator[Tensor]:
        """The same pixels, a few frames at a time; memory does not grow with length.

        Args:
            latents_BCTHW: as for `forward`.
            chunk: latent frames at a time: the first chunk of n gives `6 (n - 1) + 1` frames, each
                later one `6 n`. By default every stage takes as many frames as suit their size,
                and pixels come a few frames at a time.
            keep_on: where the two frames wait that each convolution needs of its last input; by
                default where it computes. In the CPU's memory they spare that of a GPU.

        Raises:
            RequestError: the latents have another shape, or `chunk` is not positive.
        """
        self._check(latents_BCTHW)
        if chunk is not None and chunk < 1:
            raise RequestError("chunk", chunk, "must be at least 1 latent frame", 1)
        lay_out(self)
        stages = self._stages()
        most: Sequence[int | None] = [chunk, *[None] * (len(stages) - 1)]
        if chunk is None:
            most = self.frames_at_a_time(latents_BCTHW.shape)
        pieces: Iterator[Tensor] = iter([latents_BCTHW])
        for stage, limit in zip(stages, most, strict=True):
            pieces = through(stage, pieces, limit, FrameStream(keep_on))
        return pieces

    def frames_at_a_time(self, shape: Sequence[int]) -> list[int]:
        """For each stage, how many of its input's frames it takes at a time in a stream of latents
        of this shape; the device and dtype are the network's."""
        weight = self.output_proj.weight
        limit, pixels = piece_bytes(weight.device), shape[0] * shape[3] * shape[4]
        found = []
        for channels, step in zip(
            self.config.channels, (1, *self.config.time_expansions), strict=True
        ):
            frames = frames_within(limit, channels * pixels * weight.dtype.itemsize)
            found.append(max(1, frames // step))
            pixels *= SPACE_STEP**2
        return found

    def decode_chunk(self, latents_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        """Pixels of some latent frames; `frames` brings what came before them."""
        x = latents_BCTHW
        for stage in self._stages():
            x = stage(x, frames)
        return x

    def _stages(self) -> Sequence[Stage]:
        """One for each size of a frame: what makes it, then residual blocks."""
        layers: Any = self.blocks
        (conv, *first), *ups, last = layers
        enter: list[Stage] = [partial(self._enter, conv), *(up.expand for up in ups)]
        blocks = [(*first, *ups[0].blocks), *(up.blocks for up in ups[1:]), last]
        stages = [partial(_stage, *each) for each in zip(enter, blocks, strict=True)]
        return [*stages[:-1], lambda x, frames: self._pixels(stages[-1](x, frames))]

    def _enter(self, conv: nn.Module, latents_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        x = latents_BCTHW.to(self.output_proj.weight.dtype)
        return conv(x.contiguous(memory_format=torch.channels_last_3d))

    def _pixels(self, x_BCTHW: Tensor) -> Tensor:
        x_BCTHW = F.silu(x_BCTHW, inplace=not torch.is_grad_enabled())
        return linear_on_channels(self.output_proj, x_BCTHW).float()

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
        return self.expand(x_BCTHW, frames)

    def expand(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        """Channels to time and space."""
        expanded = depth_to_space_time(self._packed(x_BCTHW), self.time_step, SPACE_STEP)
        # The first latent frame stands for one frame only. Dropping here, before the next layer
        # looks back, is not the same as dropping all surplus frames at the end (SPEC 4).
        return expanded[:, :, self.time_step - 1 :] if frames.at_start else expanded

    def _packed(self, x_BCTHW: Tensor) -> Tensor:
        """The layer's outputs, channels last, in the order (time, space, space, C).

        The layer itself packs them as (C, time, space, space). From that order each number would be
        moved alone; in this one they are moved in runs of C, three times as fast.
        """
        weight_PC, bias_P = (
            parameter.unflatten(0, (-1, self.time_step * SPACE_STEP**2))
            .transpose(0, 1)
            .flatten(0, 1)
            for parameter in (self.proj.weight, self.proj.bias)
        )
        return F.linear(x_BCTHW.movedim(1, -1).to(weight_PC.dtype), weight_PC, bias_P)


def _stage(enter: Stage, blocks: Iterable[nn.Module], x: Tensor, frames: FrameExchange) -> Tensor:
    x = enter(x, frames)
    for block in blocks:
        x = block(x, frames)
    return x


def depth_to_space_time(x_BTHWP: Tensor, time: int, space: int) -> Tensor:
    """Channels packed as (time, space, space, C) to `(B, C, T * time, H * space, W * space)`.

    The result is in channels-last memory order.
    """
    batch, frames, height, width, _ = x_BTHWP.shape
    x = x_BTHWP.unflatten(-1, (time, space, space, -1))  # B T H W st sh sw C
    x = x.permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, frames * time, height * space, width * space, -1).movedim(-1, 1)
