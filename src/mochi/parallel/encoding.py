"""The VAE's encoder on many ranks, split in time: the posterior of one process.

Convolutions pass two frames on to the next rank, as in decoding. Attention along time sees all
earlier frames of a pixel: there the cut goes through space for a moment, all frames of some pixels
on each rank, and back.
"""

# Shapes: B batch, C channels, T frames, H W pixels, P all pixels of a frame, p this rank's.

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mochi.core.config import SPACE_STEP, EncoderConfig
from mochi.model.causal import lay_out
from mochi.model.encoder import AttentionBlock, Encoder, Posterior
from mochi.model.exchange import WholeVideo
from mochi.model.staged import piece_bytes
from mochi.parallel.frames import Turn
from mochi.parallel.group import Group, Shape
from mochi.parallel.moves import gather_replicated, repartition
from mochi.parallel.passing import FromRank, PassedFrames, ToRank
from mochi.parallel.shares import shares, spans

ATTENTION, LATENTS = "encoder attention", "latents"

_ATTENTION_COPIES = 12
"""Tensors like its input that attention along time holds, those in float32 counted twice."""


def encoder_messages(config: EncoderConfig, shape: Sequence[int]) -> list[Shape]:
    """The same of the encoder.

    Args:
        config: sizes of the encoder.
        shape: of the pixels, `(B, 3, T, H, W)`.
    """
    batch, _, _, height, width = shape
    *others, before_last, last = config.blocks
    found: list[Shape] = []
    for level, blocks in enumerate((*others, before_last + last)):
        zoom = SPACE_STEP**level
        found += [(batch, 2, height // zoom, width // zoom, config.channels[level])] * (2 * blocks)
    return found


def encode(encoder: Encoder, pixels_BCTHW: Tensor, group: Group) -> Posterior:
    """Encode on all ranks of a group; every one of them gets the posterior of the whole video.

    Each holds the activations of its share of the frames. Carries gradients, which add up over the
    ranks if what is done with the posterior is the same on all of them.

    Args:
        encoder: the same weights on every rank.
        pixels_BCTHW: `(B, 3, T, H, W)` in [-1, 1], or uint8 from 0 to 255, on any device; T is
            `6k + 1`. All of it on every rank, which reads its share only.
        group: the ranks.

    Raises:
        RequestError: another shape.
    """
    encoder._check(pixels_BCTHW)
    lay_out(encoder)
    return _Encode(encoder, pixels_BCTHW, group).run()


class _Encode:
    """The walk through the encoder."""

    def __init__(self, encoder: Encoder, pixels_BCTHW: Tensor, group: Group):
        self.encoder, self.all_pixels, self.group = encoder, pixels_BCTHW, group
        weight = encoder.output_proj.weight
        self.kind = weight.dtype, weight.device
        self.step = math.prod(encoder.config.time_reductions)
        total = (pixels_BCTHW.shape[2] - 1) // self.step + 1
        places = enumerate(spans(shares(total, group.size)))
        self.turns = [Turn(place, span.start, span.stop) for place, span in places]
        self.mine = self.turns[group.place]

    def run(self) -> Posterior:
        """The posterior of the whole video."""
        frames, step = self._exchange(), self.step
        x = self._enter(frames)
        for level, (shrink, blocks) in enumerate(self.encoder.levels()):
            step //= self.encoder.config.time_reductions[level]
            x = shrink(x, frames) if self._has_frames else self._nothing(level + 1, x)
            for block in blocks:
                x = block.convolve(x, frames) if self._has_frames else x
                x = self._attend(block.attn_block, x, step)
        if isinstance(frames.sink, ToRank):
            frames.sink.settle()
        return self._gathered(x)

    @property
    def _has_frames(self) -> bool:
        return self.mine.stop > self.mine.start

    def _exchange(self) -> PassedFrames:
        source, sink, place = None, None, self.mine.place
        if self._has_frames and place > 0:
            shapes = encoder_messages(self.encoder.config, self.all_pixels.shape)
            source = FromRank(self.group, place - 1, shapes, *self.kind)
        if self._has_frames and self.mine.stop < self.turns[-1].stop:
            sink = ToRank(self.group, place + 1)
        return PassedFrames(source, sink)

    def _enter(self, frames: PassedFrames) -> Tensor:
        if not self._has_frames:
            empty = torch.empty(0, device=self.kind[1], requires_grad=torch.is_grad_enabled())
            return self._nothing(0, empty)
        stop = self.step * (self.mine.stop - 1) + 1
        part = self.all_pixels[:, :, stop - self.mine.frames(self.step) : stop].to(self.kind[1])
        if not part.is_floating_point():
            part = part.float() / 127.5 - 1
        return self.encoder.enter(part, frames)

    def _nothing(self, level: int, before: Tensor) -> Tensor:
        """The activation of a rank without frames. Gradients go on to the one before it: this rank
        takes part in the attention of others, on the way back too."""
        batch, _, _, height, width = self.all_pixels.shape
        zoom, channels = SPACE_STEP**level, self.encoder.config.channels[level]
        shape = (batch, 0, height // zoom, width // zoom, channels)
        empty = torch.empty(shape, dtype=self.kind[0], device=self.kind[1])
        return empty.permute(0, 4, 1, 2, 3) + before.sum().to(self.kind[0])

    def _attend(self, attention: AttentionBlock, x_BCTHW: Tensor, step: int) -> Tensor:
        """`x + attn(norm(x))` where each pixel sees all frames up to its own."""
        height, width = x_BCTHW.shape[3:]
        pixels = shares(height * width, self.group.size)
        times = tuple(turn.frames(step) if turn.stop > turn.start else 0 for turn in self.turns)
        normed = attention.norm(x_BCTHW) if self._has_frames else x_BCTHW
        rows_BTPC = normed.permute(0, 2, 3, 4, 1).flatten(2, 3)
        rows_BTpC = repartition(rows_BTPC, self.group, 2, pixels, 1, times, ATTENTION)
        rows_BTpC = self._attended(attention, rows_BTpC)
        rows_BTPC = repartition(rows_BTpC, self.group, 1, times, 2, pixels, ATTENTION)
        return x_BCTHW + rows_BTPC.unflatten(2, (height, width)).permute(0, 4, 1, 2, 3)

    def _attended(self, attention: AttentionBlock, x_BTpC: Tensor) -> Tensor:
        """Attention along time, some pixels at a time."""
        one_pixel = _ATTENTION_COPIES * x_BTpC[:, :, :1].numel() * x_BTpC.element_size()
        if not one_pixel:
            return x_BTpC
        parts = []
        for some_BTpC in x_BTpC.split(max(1, piece_bytes(self.kind[1]) // one_pixel), dim=2):
            some_BCT1p = some_BTpC.permute(0, 3, 1, 2).unsqueeze(3)
            parts.append(attention.attn(some_BCT1p, WholeVideo()).squeeze(3).permute(0, 2, 3, 1))
        return torch.cat(parts, dim=2)

    def _gathered(self, x_BCTHW: Tensor) -> Posterior:
        batch, _, _, height, width = x_BCTHW.shape
        if self._has_frames:
            mine = self.encoder.leave(x_BCTHW)
            both = torch.cat([mine.mean, mine.logvar], dim=1)
        else:
            channels = 2 * self.encoder.config.latent_channels
            both = torch.empty(batch, channels, 0, height, width, device=self.kind[1])
            both = both + x_BCTHW.sum().float()
        counts = tuple(turn.stop - turn.start for turn in self.turns)
        whole = gather_replicated(both, self.group, 2, counts, LATENTS)
        mean, logvar = whole.chunk(2, dim=1)
        return Posterior(mean, logvar)
