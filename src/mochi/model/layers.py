"""Small pieces that both networks share, with their precision spelled out (SPEC 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear layer that takes any float input and computes in its weight's dtype.

    Checkpoints mix dtypes (float32 embedders beside bf16 blocks), so the layer that knows its
    dtype does the cast.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class HeadNorm(nn.Module):
    """RMSNorm with a weight over the last dimension, eps 1e-5, float32 inside."""

    def __init__(self, head_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), eps=1e-5)


class SwiGLU(nn.Module):
    """`w2(silu(a) * b)` where `a, b = w1(x)`; no biases (SPEC 2)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w1 = Linear(width, 2 * hidden, bias=False)
        self.w2 = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w1(x).chunk(2, dim=-1)
        return self.w2(F.silu(gate) * value)


def modulated_norm(x_BND: Tensor, scale_BD: Tensor) -> Tensor:
    """`x / rms(x) * (1 + scale)`: float32 inside and out, eps 1e-6."""
    normed_BND = F.rms_norm(x_BND.float(), x_BND.shape[-1:], eps=1e-6)
    return normed_BND * (1 + scale_BD.float().unsqueeze(1))


def gated_residual(x_BND: Tensor, y_BND: Tensor, gate_BD: Tensor) -> Tensor:
    """`x + rmsnorm(y) * tanh(gate)` in x's dtype: the sandwich norm, float32 inside, eps 1e-6."""
    normed_BND = F.rms_norm(y_BND.float(), y_BND.shape[-1:], eps=1e-6)
    return x_BND + (normed_BND * gate_BD.float().tanh().unsqueeze(1)).to(x_BND.dtype)
