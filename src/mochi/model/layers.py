"""Small pieces that both networks share, with their precision spelled out (SPEC 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from mochi.model.kernels import Kernels


class Linear(nn.Linear):
    """A linear layer that takes any float input and computes in its weight's dtype.

    Checkpoints mix dtypes (float32 embedders beside bf16 blocks), so the layer that knows its
    dtype does the cast.
    """

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the layer computes in; inputs in it need no cast."""
        return self.weight.dtype

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # nothing to fill, in some hundred layers
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def compute_dtype(layer: nn.Module) -> torch.dtype:
    """What a linear layer of whatever kind computes in; float32 where it does not say."""
    dtype = getattr(layer, "compute_dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


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

    def forward(self, x: Tensor, kernels: Kernels) -> Tensor:
        return self.w2(kernels.silu_mul(self.w1(x)))
