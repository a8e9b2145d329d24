"""Layers of AsymmVAE: causal in time, each frame normalised by itself (SPEC 4).

Activations are `(B, C, T, H, W)` tensors kept in channels-last memory order, so that a view as
`(B * T, C, H, W)` frames, and one as `(..., C)` rows for linear layers, costs nothing.
"""

# Shapes: B batch, C channels, T frames, H W pixels.

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.config import NORM_GROUPS
from mochi.model.exchange import FrameExchange
from mochi.model.layers import Linear


class FrameNorm(nn.GroupNorm):
    """GroupNorm with 32 groups over each frame by itself, eps 1e-5, weight and bias."""

    def __init__(self, channels: int):
        super().__init__(NORM_GROUPS, channels, eps=1e-5)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        batch = x_BCTHW.shape[0]
        frames = x_BCTHW.transpose(1, 2).flatten(0, 1)
        weight, bias = self.weight.to(frames.dtype), self.bias.to(frames.dtype)
        normed = F.group_norm(frames, self.num_groups, weight, bias, self.eps)
        return normed.unflatten(0, (batch, -1)).transpose(1, 2)


class CausalConv3d(nn.Conv3d):
    """3 x 3 x 3 convolution that sees two frames back and never ahead; replicate padding."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=3)

    def forward(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:  # type: ignore[override]
        before = frames.frames_before(self, x_BCTHW, self.kernel_size[0] - 1)
        x_BCTHW = F.pad(torch.cat([before, x_BCTHW], dim=2), (1, 1, 1, 1, 0, 0), mode="replicate")
        return super().forward(x_BCTHW)


class ResBlock(nn.Module):
    """`x + stack(x)`; in the encoder's down stages followed by attention along time."""

    def __init__(self, channels: int, attention: nn.Module | None = None):
        super().__init__()
        self.stack = nn.ModuleList(
            [
                FrameNorm(channels),
                nn.SiLU(),
                CausalConv3d(channels),
                FrameNorm(channels),
                nn.SiLU(),
                CausalConv3d(channels),
            ]
        )
        if attention is not None:
            self.attn_block = attention

    def forward(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        h = x_BCTHW
        for layer in self.stack:
            h = layer(h, frames) if isinstance(layer, CausalConv3d) else layer(h)
        x_BCTHW = x_BCTHW + h
        return self.attn_block(x_BCTHW, frames) if hasattr(self, "attn_block") else x_BCTHW


def linear_on_channels(layer: Linear, x_BCTHW: Tensor) -> Tensor:
    """A linear layer on the channels of each pixel."""
    return layer(x_BCTHW.movedim(1, -1)).movedim(-1, 1)
