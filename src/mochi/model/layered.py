"""A whole video through the encoder, layer after layer in place of frame after frame.

Attention along time needs the keys and values of all earlier frames. A stream keeps them for
every layer: two activations of the whole video for each of 16 layers. But a layer alone needs its
own input only, and there each pixel only itself. So one activation of the whole video is kept, and
every residual block goes over it twice, in place. First in time, some frames after others, with the
two frames that a convolution looks back; then in space, all frames of some pixels after others,
with their attention. The norm before the attention sees whole frames: its statistics are taken on
the way through time. The result is the one-shot result.
"""

# Shapes: B batch, C channels, T frames, H W pixels; 1 where a factor is the same for all.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mochi.core.config import SPACE_STEP, EncoderConfig
from mochi.model.exchange import FrameStream, WholeVideo
from mochi.model.staged import Stage, frames_within, piece_bytes

if TYPE_CHECKING:
    from mochi.model.causal import ResBlock
    from mochi.model.encoder import Encoder, Posterior

MakeVideo = Callable[..., Tensor]
"""`make(shape, dtype=..., device=...)` gives an empty tensor; on which device is its own choice."""

_ATTENTION_COPIES = 12
"""Tensors like its input that attention holds, those in float32 counted twice."""


def kept_values(config: EncoderConfig, shape: Sequence[int]) -> int:
    """Numbers that are kept of a video: its activation at one level, and at the next on the way.

    Args:
        config: sizes of the encoder.
        shape: of the pixels, `(B, 3, T, H, W)`.
    """
    batch, _, time, height, width = shape
    kept = [0]
    for channels, step in zip(config.channels[1:], config.time_reductions, strict=True):
        time, height, width = (time - 1) // step + 1, height // SPACE_STEP, width // SPACE_STEP
        kept.append(batch * channels * time * height * width)
    return max(one + following for one, following in pairwise(kept))


class Layers:
    """The walk through an encoder, layer by layer; see `Encoder.layered`."""

    def __init__(
        self, encoder: Encoder, make_video: MakeVideo, on_piece: Callable[[], object]
    ) -> None:
        self.encoder, self.make_video, self.on_piece = encoder, make_video, on_piece
        weight = encoder.output_proj.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.limit_bytes = piece_bytes(weight.device)

    def run(self, pixels_BCTHW: Tensor) -> Iterator[Posterior]:
        """The posterior, a few latent frames at a time."""
        x_BCTHW = pixels_BCTHW
        for level, (shrink, blocks) in enumerate(self.encoder.levels()):
            x_BCTHW = self._shrunk(x_BCTHW, level, shrink)
            for block in blocks:
                scale_BCT11, shift_BCT11 = self._convolve(x_BCTHW, block)
                self._attend(x_BCTHW, block, scale_BCT11, shift_BCT11)
        for part in self._pieces(x_BCTHW.shape[2], x_BCTHW[:, :, 0].numel()):
            yield self.encoder.leave(x_BCTHW[:, :, part].to(self.device))

    def _shrunk(self, x_BCTHW: Tensor, level: int, shrink: Stage) -> Tensor:
        """The video one level down; pixels go through the encoder's first blocks on the way."""
        config = self.encoder.config
        before, after = config.channels[level : level + 2]
        step = config.time_reductions[level]
        batch, _, time, height, width = x_BCTHW.shape
        time = (time - 1) // step + 1
        shape = (batch, time, height // SPACE_STEP, width // SPACE_STEP, after)
        out_BCTHW = self.make_video(shape, dtype=self.dtype, device=self.device)
        out_BCTHW = out_BCTHW.permute(0, 4, 1, 2, 3)
        frames = FrameStream()
        for part in self._pieces(time, batch * before * height * width * step):
            first = step * (part.start - 1) + 1 if part.start else 0
            some = x_BCTHW[:, :, first : step * (part.stop - 1) + 1].to(self.device)
            if level == 0:
                some = self.encoder.enter(_unit(some), frames)
            out_BCTHW[:, :, part] = shrink(some, frames)
            frames.advance()
        return out_BCTHW

    def _convolve(self, x_BCTHW: Tensor, block: ResBlock) -> tuple[Tensor, Tensor]:
        """A block's convolutions, in place; factors of the norm that comes after them."""
        frames, norm, factors = FrameStream(), block.attn_block.norm, []
        for part in self._pieces(x_BCTHW.shape[2], x_BCTHW[:, :, 0].numel()):
            some = block.convolve(x_BCTHW[:, :, part].to(self.device), frames)
            frames.advance()
            x_BCTHW[:, :, part] = some
            factors.append(norm.factors(some))
        scale_BCT11, shift_BCT11 = (torch.cat(parts, dim=2) for parts in zip(*factors, strict=True))
        return scale_BCT11, shift_BCT11

    def _attend(
        self, x_BCTHW: Tensor, block: ResBlock, scale_BCT11: Tensor, shift_BCT11: Tensor
    ) -> None:
        """A block's attention, in place, all frames of some pixels at a time."""
        whole, attention = WholeVideo(), block.attn_block.attn
        for rows, columns in self._tiles(x_BCTHW):
            tile = x_BCTHW[..., rows, columns]
            here = tile.to(self.device)
            normed = torch.addcmul(shift_BCT11, here.float(), scale_BCT11).to(self.dtype)
            tile.copy_(attention(normed, whole).add_(here))

    def _tiles(self, x_BCTHW: Tensor) -> Iterator[tuple[slice, slice]]:
        """A frame in rows, or in parts of rows where one is too much. Where nothing but sizes is
        computed, the first stands for all."""
        *_, height, width = x_BCTHW.shape
        pixel_bytes = _ATTENTION_COPIES * x_BCTHW[..., 0, 0].numel() * self.dtype.itemsize
        pixels = max(1, self.limit_bytes // pixel_bytes)
        rows, columns = max(1, pixels // width), min(pixels, width)
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                self.on_piece()
                yield slice(top, top + rows), slice(left, left + columns)
                if x_BCTHW.is_meta:
                    return

    def _pieces(self, frames: int, frame_values: int) -> Iterator[slice]:
        """A video in pieces of time."""
        step = frames_within(self.limit_bytes, frame_values * self.dtype.itemsize)
        for start in range(0, frames, step):
            self.on_piece()
            yield slice(start, min(frames, start + step))


def _unit(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1], from bytes too."""
    return pixels if pixels.is_floating_point() else pixels.float() / 127.5 - 1
