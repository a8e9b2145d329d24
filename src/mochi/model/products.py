"""Linear layers that compute in 8 bits: lossy, off by default (PERFORMANCE 3 and 5).

Weights have a scale for each output, inputs one for each row, made anew each time. What errs is the
rounding of both sides: to 255 equal levels as integers, to three bits behind the first one as
float8 (e4m3fn). Products of integers are summed exactly, those of float8 in float32.
"""

# Shapes: O outputs, I inputs, M rows, ... any dimensions before.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.errors import RequestError
from mochi.core.speed import PRODUCT_NAMES
from mochi.model.layers import Linear

_LEAST_ROWS, _MULTIPLE = 32, 8  # of CUDA's integer kernel; padding costs a few rows
_FLOAT8_MULTIPLE = 16  # of inputs and outputs, in the float8 kernels
_FLOAT8_CUDA = (8, 9)


@dataclass(frozen=True)
class Eight:
    """A number of eight bits, and how two matrices of such are multiplied.

    Attributes:
        name: as in `--products`.
        dtype: of the numbers.
        largest: magnitude that a row's largest value is scaled to.
        product: `(M, I)` and `(O, I)` to their product, float32 `(M, O)`.
        fits: whether its kernels take a weight of this many outputs and inputs.
    """

    name: str
    dtype: torch.dtype
    largest: float
    product: Callable[[Tensor, Tensor], Tensor]
    fits: Callable[[int, int], bool]

    def rows(self, x_MI: Tensor) -> tuple[Tensor, Tensor]:
        """Each row in eight bits, `(M, I)`, and its scale, float32 `(M, 1)`."""
        most_M1 = x_MI.abs().amax(dim=1, keepdim=True).float()
        scale_M1 = (most_M1 / self.largest).clamp_(min=torch.finfo(torch.float32).tiny)
        scaled_MI = x_MI * scale_M1.reciprocal()
        if not self.dtype.is_floating_point:
            scaled_MI = scaled_MI.round_()
        return scaled_MI.clamp_(-self.largest, self.largest).to(self.dtype), scale_M1


def int8_product(a_MI: Tensor, b_OI: Tensor) -> Tensor:
    """`a @ b.T` of 8-bit integers, float32 `(M, O)`."""
    rows, padding = a_MI.shape[0], 0
    if a_MI.is_cuda:
        padding = max(_LEAST_ROWS - rows, -rows % _MULTIPLE)
        a_MI = F.pad(a_MI, (0, 0, 0, padding))
    elif not _cpu_sums_exactly():
        return (a_MI.double() @ b_OI.double().t()).float()
    return torch._int_mm(a_MI, b_OI.t())[:rows].float()


@cache
def _cpu_sums_exactly() -> bool:
    """Whether PyTorch's product of integers is right here. On processors without VNNI oneDNN sums
    two products in 16 bits, and cuts off what does not fit (torch 2.13)."""
    most = torch.full((_LEAST_ROWS, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(most, most.t()) == 64 * 127 * 127).all())


def fp8_product(a_MI: Tensor, b_OI: Tensor) -> Tensor:
    """`a @ b.T` of float8 numbers, float32 `(M, O)`."""
    one = torch.ones((), device=a_MI.device)
    return torch._scaled_mm(a_MI, b_OI.t(), scale_a=one, scale_b=one, out_dtype=torch.float32)


def _multiples_of_16(outputs: int, inputs: int) -> bool:
    return outputs % _FLOAT8_MULTIPLE == inputs % _FLOAT8_MULTIPLE == 0


INT8 = Eight("int8", torch.int8, 127, int8_product, lambda outputs, inputs: True)
FP8 = Eight("fp8", torch.float8_e4m3fn, 448, fp8_product, _multiples_of_16)
EIGHTS = {eight.name: eight for eight in (INT8, FP8)}


class EightBitLinear(nn.Module):
    """A linear layer made of another one; no gradients.

    Attributes:
        in_features, out_features: as of `nn.Linear`.
        bias: a parameter, or None.
        compute_dtype: of the result.
    """

    def __init__(self, layer: Linear, eight: Eight):
        super().__init__()
        self.out_features, self.in_features = layer.weight.shape
        self.compute_dtype = layer.compute_dtype
        self._eight = eight
        rows_OI, scale_O1 = eight.rows(layer.weight.detach())
        self.register_buffer("rows", rows_OI)
        self.register_buffer("scale", scale_O1.squeeze(1))
        self.bias = layer.bias
        self.rows: Tensor
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """`(..., I)` of any float dtype to `(..., O)` of `compute_dtype`."""
        rows_MI, scale_M1 = self._eight.rows(x.reshape(-1, self.in_features))
        out_MO = self._eight.product(rows_MI, self.rows).mul_(scale_M1).mul_(self.scale)
        if self.bias is not None:
            out_MO += self.bias.float()
        return out_MO.to(self.compute_dtype).view(*x.shape[:-1], self.out_features)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight that this layer has, rounding and all."""
        return (self.rows.float() * self.scale.unsqueeze(1)).to(dtype or self.compute_dtype)

    def extra_repr(self) -> str:
        """For `print`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {self._eight.name}"
        )


def check_products(name: str, device: torch.device) -> None:
    """Whether a device multiplies numbers of this kind.

    Raises:
        RequestError: it does not, or there is no such kind.
    """
    if name not in PRODUCT_NAMES:
        raise RequestError("products", name, "is unknown", ", ".join(PRODUCT_NAMES))
    if name == FP8.name and device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < _FLOAT8_CUDA:
            has = ".".join(map(str, found))
            rule = f"needs a GPU of compute capability 8.9, this one has {has}"
            raise RequestError("products", name, rule, "int8")


def compute_in_eight_bits(blocks: nn.ModuleList, eight: Eight) -> int:
    """Replace the large layers of a transformer's blocks; returns how many.

    The first and the last block, and all that works on the text, stay as they are: they cost little
    and err most (PERFORMANCE 3). So does what is no plain `Linear`: weights that are quantised
    already, layers that wear an adapter; and a layer whose sizes the kernels do not take.
    """
    replaced = 0
    for block in list(blocks)[1:-1]:
        for name in ("attn.qkv_x", "attn.proj_x", "mlp_x.w1", "mlp_x.w2"):
            layer = block.get_submodule(name)
            if isinstance(layer, Linear) and eight.fits(*layer.weight.shape):
                block.set_submodule(name, EightBitLinear(layer, eight))
                replaced += 1
    return replaced
