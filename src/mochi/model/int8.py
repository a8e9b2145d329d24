"""Linear layers that compute in 8-bit integers: near-exact, off by default (PERFORMANCE 3 and 5).

Weights have a scale for each output, inputs one for each row, made anew each time. Products and
sums of 8-bit integers are exact; what errs is the rounding of both sides to 255 levels.
"""

# Shapes: O outputs, I inputs, M rows, ... any dimensions before.

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.model.layers import Linear

LEVELS = 127
_LEAST_ROWS, _MULTIPLE = 32, 8  # of CUDA's kernel; padding costs a few rows


class Int8Linear(nn.Module):
    """A linear layer made of another one; no gradients.

    Attributes:
        in_features, out_features: as of `nn.Linear`.
        bias: a parameter, or None.
        compute_dtype: of the result.
    """

    def __init__(self, layer: Linear):
        super().__init__()
        self.out_features, self.in_features = layer.weight.shape
        self.compute_dtype = layer.compute_dtype
        rows_OI, scale_O1 = quantise_rows(layer.weight.detach())
        self.register_buffer("rows", rows_OI)
        self.register_buffer("scale", scale_O1.squeeze(1))
        self.bias = layer.bias
        self.rows: Tensor
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """`(..., I)` of any float dtype to `(..., O)` of `compute_dtype`."""
        x_MI = x.reshape(-1, self.in_features)
        rows_MI, scale_M1 = quantise_rows(x_MI)
        sums_MO = int8_product(rows_MI, self.rows).float()
        out_MO = sums_MO.mul_(scale_M1).mul_(self.scale)
        if self.bias is not None:
            out_MO += self.bias.float()
        return out_MO.to(self.compute_dtype).view(*x.shape[:-1], self.out_features)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight that this layer has, rounding and all."""
        return (self.rows.float() * self.scale.unsqueeze(1)).to(dtype or self.compute_dtype)

    def extra_repr(self) -> str:
        """For `print`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, int8"


def quantise_rows(x_MI: Tensor) -> tuple[Tensor, Tensor]:
    """Each row as 8-bit integers and its scale: int8 `(M, I)` and float32 `(M, 1)`."""
    largest_M1 = x_MI.abs().amax(dim=1, keepdim=True).float()
    scale_M1 = (largest_M1 / LEVELS).clamp_(min=torch.finfo(torch.float32).tiny)
    return (x_MI * scale_M1.reciprocal()).round_().to(torch.int8), scale_M1


def int8_product(a_MI: Tensor, b_OI: Tensor) -> Tensor:
    """`a @ b.T` of 8-bit integers, int32 `(M, O)`."""
    rows, padding = a_MI.shape[0], 0
    if a_MI.is_cuda:
        padding = max(_LEAST_ROWS - rows, -rows % _MULTIPLE)
        a_MI = F.pad(a_MI, (0, 0, 0, padding))
    return torch._int_mm(a_MI, b_OI.t())[:rows]


def compute_in_int8(blocks: nn.ModuleList) -> int:
    """Replace the large layers of a transformer's blocks; returns how many.

    The first and the last block, and all that works on the text, stay as they are: they cost little
    and err most (PERFORMANCE 3). So does what is no plain `Linear`: weights that are quantised
    already, layers that wear an adapter.
    """
    replaced = 0
    for block in list(blocks)[1:-1]:
        for name in ("attn.qkv_x", "attn.proj_x", "mlp_x.w1", "mlp_x.w2"):
            layer = block.get_submodule(name)
            if isinstance(layer, Linear):
                block.set_submodule(name, Int8Linear(layer))
                replaced += 1
    return replaced
