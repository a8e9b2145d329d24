"""Dense weights to the small forms that published files keep: ggml blocks, and float8 with a scale.

Shapes: O outputs, I inputs, K = I / 32 blocks of a row.

A ggml block holds 32 neighbouring inputs of one output: a float16 scale, then the numbers.
q8_0 has 32 signed bytes (34 bytes in all), q4_0 has 16 bytes (18 in all) whose low halves are the
first 16 numbers and whose high halves the last 16, each with 8 added. Both are bit for bit what
the `gguf` package writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mochi.core.errors import WeightsError
from mochi.weights.templates import Template

BLOCK = 32
FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max  # 448
_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class BlockForm:
    """A ggml block of 32 weights.

    Attributes:
        name: as people write it, `q4_0`.
        block_bytes: size of a block.
        pack: `(O, I)` float32 to `(O, K * block_bytes)` uint8.
    """

    name: str
    block_bytes: int
    pack: Callable[[Tensor], Tensor]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape can be kept so: its rows must be whole blocks."""
        return len(shape) == 2 and shape[1] > 0 and shape[1] % BLOCK == 0

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Shape of the bytes of a weight `(O, I)`."""
        return shape[0], shape[1] // BLOCK * self.block_bytes


def pack_q8_0(weight_OI: Tensor) -> Tensor:
    """`(O, I)` float32 to q8_0 blocks: scale = largest magnitude / 127, rounded half away.

    Raises:
        WeightsError: a scale is too large for float16, or a weight is no number.
    """
    blocks_NB = weight_OI.reshape(-1, BLOCK)
    scale_N1 = blocks_NB.abs().amax(1, keepdim=True) / torch.tensor(127.0)
    scaled_NB = blocks_NB * _inverse(scale_N1)
    magnitude_NB = scaled_NB.abs()
    whole_NB = magnitude_NB.floor()
    whole_NB += (2 * (magnitude_NB - whole_NB)).floor_()
    numbers_NB = whole_NB.copysign_(scaled_NB).to(torch.int8).view(torch.uint8)
    return torch.cat([_half_bytes(scale_N1), numbers_NB], 1).view(weight_OI.shape[0], -1)


def pack_q4_0(weight_OI: Tensor) -> Tensor:
    """`(O, I)` float32 to q4_0 blocks: the number of largest magnitude (the first, where several
    have it) becomes -8.

    Raises:
        WeightsError: as `pack_q8_0`.
    """
    blocks_NB = weight_OI.reshape(-1, BLOCK)
    largest_N1 = blocks_NB.abs().argmax(1, keepdim=True)
    scale_N1 = blocks_NB.gather(1, largest_N1) / torch.tensor(-8.0)
    numbers_NB = (blocks_NB * _inverse(scale_N1)).add_(8.5).to(torch.uint8).clamp_(max=15)
    low_NH, high_NH = numbers_NB.chunk(2, dim=1)
    packed_NH = low_NH | (high_NH << 4)
    return torch.cat([_half_bytes(scale_N1), packed_NH], 1).view(weight_OI.shape[0], -1)


Q8_0 = BlockForm("q8_0", 34, pack_q8_0)
Q4_0 = BlockForm("q4_0", 18, pack_q4_0)
BLOCK_FORMS: Mapping[str, BlockForm] = {form.name: form for form in (Q8_0, Q4_0)}

# The linear layers of the blocks, 99 % of all weights. Published files leave everything else wide:
# embedders, norms, biases, pos_frequencies, the final layer, the VAE, T5's embeddings.
_QUANTISED: Mapping[str, tuple[str, ...]] = {
    "dit": (
        "blocks.{i}.mod_x.weight",
        "blocks.{i}.mod_y.weight",
        "blocks.{i}.attn.qkv_x.weight",
        "blocks.{i}.attn.qkv_y.weight",
        "blocks.{i}.attn.proj_x.weight",
        "blocks.{i}.attn.proj_y.weight",
        "blocks.{i}.mlp_x.w1.weight",
        "blocks.{i}.mlp_x.w2.weight",
        "blocks.{i}.mlp_y.w1.weight",
        "blocks.{i}.mlp_y.w2.weight",
    ),
    "t5": (
        "encoder.block.{i}.layer.0.SelfAttention.q.weight",
        "encoder.block.{i}.layer.0.SelfAttention.k.weight",
        "encoder.block.{i}.layer.0.SelfAttention.v.weight",
        "encoder.block.{i}.layer.0.SelfAttention.o.weight",
        "encoder.block.{i}.layer.1.DenseReluDense.wi_0.weight",
        "encoder.block.{i}.layer.1.DenseReluDense.wi_1.weight",
        "encoder.block.{i}.layer.1.DenseReluDense.wo.weight",
    ),
}
_PATTERNS = {
    part: tuple(Template.bind(text, {}) for text in texts) for part, texts in _QUANTISED.items()
}


def is_quantised(part: str, name: str) -> bool:
    """Whether published files quantise the tensor that has our name `name`."""
    return any(pattern.match(name) for pattern in _PATTERNS.get(part, ()))


def fp8_scale(largest: Tensor) -> Tensor:
    """The float32 scalar that brings the largest magnitude of a weight to 448; 1 for zeros.

    Raises:
        WeightsError: the largest magnitude is NaN or infinite.
    """
    if not largest.isfinite():
        raise WeightsError("cannot be kept as float8: it holds NaN or infinity")
    return torch.where(largest > 0, largest.float() / FP8_MAX, torch.ones(()))


def to_fp8(weight: Tensor, scale: Tensor | None = None) -> Tensor:
    """The nearest float8_e4m3fn of a weight divided by its scale; without a scale a plain cast.

    What is out of range saturates: torch's own cast would make NaN of it.
    """
    values = weight.float() if scale is None else weight.float() / scale
    return values.clamp(-FP8_MAX, FP8_MAX).to(FP8)


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where that is no number: such a block is stored with the scale 0."""
    inverse = 1 / scale
    return inverse.masked_fill_(~inverse.isfinite(), 0)


def _half_bytes(scale_N1: Tensor) -> Tensor:
    half_N1 = scale_N1.to(torch.float16)
    if not half_N1.isfinite().all():
        raise WeightsError(
            "cannot be kept in blocks: the scale of one is NaN, infinite or above "
            f"{_HALF_MAX:.0f}, the largest float16"
        )
    return half_N1.view(torch.uint8)
