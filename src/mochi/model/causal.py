"""Layers of AsymmVAE: causal in time, each frame normalised by itself (SPEC 4).

Activations are `(B, C, T, H, W)` tensors kept in channels-last memory order, so that a view as
`(B * T, C, H, W)` frames, and one as `(..., C)` rows for linear layers, costs nothing.
"""

# Shapes: B batch, C channels, T frames, H W pixels.

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.config import NORM_GROUPS
from mochi.core.errors import RequestError
from mochi.model.convolve import METHODS, Method, choose, convolved, on_cpu, padded_input
from mochi.model.exchange import FrameExchange
from mochi.model.layers import Linear

_CONVOLUTION_DIMENSIONS = 5  # O C T H W


class FrameNorm(nn.GroupNorm):
    """GroupNorm with 32 groups over each frame by itself, eps 1e-5, weight and bias."""

    def __init__(self, channels: int):
        super().__init__(NORM_GROUPS, channels, eps=1e-5)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        batch, frames = x_BCTHW.shape[0], _frames(x_BCTHW)
        if torch.is_grad_enabled() and not x_BCTHW.requires_grad:
            # The backward pass of a channels-last norm whose input wants no gradient crashes the
            # process (CPU, PyTorch 2.13).
            frames = frames.contiguous()
        weight, bias = self.weight.to(frames.dtype), self.bias.to(frames.dtype)
        normed = F.group_norm(frames, self.num_groups, weight, bias, self.eps)
        return normed.unflatten(0, (batch, -1)).transpose(1, 2)

    def factors(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """What the norm of these frames multiplies by and then adds: float32 `(B, C, T, 1, 1)`."""
        batch, channels, time, height, width = x_BCTHW.shape
        sizes = (batch * time, channels, height * width, self.num_groups)
        weight, bias, frames = self.weight.float(), self.bias.float(), _frames(x_BCTHW)
        if not on_cpu(x_BCTHW.device):  # elsewhere the statistics would be as coarse as x
            frames = frames.float()
        _, mean, inverse = torch.native_group_norm(frames, weight, bias, *sizes, self.eps)
        each = channels // self.num_groups
        scale = weight * inverse.repeat_interleave(each, 1)
        shift = bias - mean.repeat_interleave(each, 1) * scale
        return _on_frames(scale, batch), _on_frames(shift, batch)


def _on_frames(factor_FC: Tensor, batch: int) -> Tensor:
    return factor_FC.unflatten(0, (batch, -1)).transpose(1, 2)[..., None, None]


def _frames(x_BCTHW: Tensor) -> Tensor:
    """Each frame as a row of the batch; a view, but of a part of the frames of several videos."""
    return x_BCTHW.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous().permute(0, 3, 1, 2)


class CausalConv3d(nn.Conv3d):
    """3 x 3 x 3 convolution that sees two frames back and never ahead; replicate padding."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=3)

    def forward(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:  # type: ignore[override]
        before = frames.frames_before(self, x_BCTHW, self.kernel_size[0] - 1)
        x_BCTHW = F.pad(torch.cat([before, x_BCTHW], dim=2), (1, 1, 1, 1, 0, 0), mode="replicate")
        return super().forward(x_BCTHW)


class ResBlock(nn.Module):
    """`x + stack(x)`; in the encoder's down stages followed by attention along time.

    Attributes:
        method: how it convolves where no gradient is wanted.
    """

    method: Method = "auto"

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
            self.attn_block: Any = attention

    def forward(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        x_BCTHW = self.convolve(x_BCTHW, frames)
        return self.attn_block(x_BCTHW, frames) if hasattr(self, "attn_block") else x_BCTHW

    def convolve(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        """`x + stack(x)`, without the attention."""
        if self.method == "plain" or self._wants_gradients(x_BCTHW):
            h = x_BCTHW
            for layer in self.stack:
                h = layer(h, frames) if isinstance(layer, CausalConv3d) else layer(h)
            return x_BCTHW + h
        layers: Any = self.stack
        norm_1, _, conv_1, norm_2, _, conv_2 = layers
        method = choose(self.method, conv_1, x_BCTHW)
        padded = padded_input(norm_1, conv_1, x_BCTHW, frames)
        h = convolved(method, conv_1, padded)
        del padded
        padded = padded_input(norm_2, conv_2, h, frames)
        del h
        return convolved(method, conv_2, padded, x_BCTHW)

    def _wants_gradients(self, x_BCTHW: Tensor) -> bool:
        if not torch.is_grad_enabled():
            return False
        return x_BCTHW.requires_grad or any(p.requires_grad for p in self.stack.parameters())


def use_convolutions(network: nn.Module, method: Method) -> None:
    """Let all residual blocks of a network convolve by `method`.

    Raises:
        RequestError: there is no such method; lists those there are.
    """
    if method not in METHODS:
        raise RequestError("convolutions", method, "is unknown", ", ".join(METHODS))
    for block in network.modules():
        if isinstance(block, ResBlock):
            block.method = method


def lay_out(network: nn.Module) -> None:
    """Keep the weights of convolutions as inference reads them: channels last. Does nothing where
    that is so, or where weights are being trained."""
    if torch.is_grad_enabled() and any(p.requires_grad for p in network.parameters()):
        return
    for parameter in network.parameters():
        if parameter.ndim == _CONVOLUTION_DIMENSIONS:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


def linear_on_channels(layer: Linear, x_BCTHW: Tensor) -> Tensor:
    """A linear layer on the channels of each pixel."""
    return layer(x_BCTHW.movedim(1, -1)).movedim(-1, 1)
