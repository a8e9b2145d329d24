"""ggml blocks: weights in groups that share scales, a few bits each, decoded in torch.

The layouts are those of ggml's `block_*` structures. Multiplications happen in float32 and in the
order of the `gguf` package, whose decoder gives the same bits.
"""

# Shapes: N blocks, G groups of a block, J weights of a group, W weights of a block.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Codec:
    """How one kind of block is laid out.

    Attributes:
        weights: weights in a block.
        bytes: bytes of a block.
        scales: offsets of its float16 scales; all else in a block are whole numbers.
        decode: `(N, bytes)` uint8 to `(N, weights)` float32.
    """

    weights: int
    bytes: int
    scales: tuple[int, ...]
    decode: Callable[[Tensor], Tensor]


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 at an offset of each block, as float32 `(N, 1)`."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _bits(packed: Tensor, run: int, bits: int) -> Tensor:
    """Unpack: runs of `run` bytes, of each run the lowest `bits` of all bytes, then the next.

    Returns uint8 `(N, weights)`.
    """
    count = 8 // bits
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    runs = packed.unflatten(1, (-1, 1, run)) >> shifts.view(1, 1, count, 1)
    return (runs & (2**bits - 1)).flatten(1)


def _fifth_bits(packed: Tensor) -> Tensor:
    """32 bits in 4 bytes, the lowest first, as uint8 `(N, 32)`."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(2) >> shifts) & 1).flatten(1)


# ----------------------------------------------------------------------------------- blocks of 32


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_bits(blocks[:, 2:], 16, 4).to(torch.int8) - 8).float()


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _bits(blocks[:, 4:], 16, 4).float() + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    whole = _bits(blocks[:, 6:], 16, 4) | (_fifth_bits(blocks[:, 2:6]) << 4)
    return _half(blocks, 0) * (whole.to(torch.int8) - 16).float()


def _q5_1(blocks: Tensor) -> Tensor:
    whole = _bits(blocks[:, 8:], 16, 4) | (_fifth_bits(blocks[:, 4:8]) << 4)
    return _half(blocks, 0) * whole.float() + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()


# --------------------------------------------------------------- "K": groups in blocks of 256


def _q2_k(blocks: Tensor) -> Tensor:
    packed = blocks[:, :16]
    scale_NG = _half(blocks, 80) * (packed & 15).float()
    least_NG = _half(blocks, 82) * (packed >> 4).float()
    whole_NGJ = _bits(blocks[:, 16:80], 32, 2).unflatten(1, (16, 16))
    return (scale_NG.unsqueeze(2) * whole_NGJ.float() - least_NG.unsqueeze(2)).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    low = _bits(blocks[:, 96:104], 8, 4)  # 16 scales of 6 bits: four of them here ...
    high = _bits(blocks[:, 104:108], 4, 2)  # ... two here
    scale_NG = _half(blocks, 108) * ((low | (high << 4)).to(torch.int8) - 32).float()
    absent = _bits(blocks[:, :32], 32, 1) ^ 1  # the third bit is stored, and 4 taken off without
    whole = _bits(blocks[:, 32:96], 32, 2).to(torch.int8) - (absent << 2).to(torch.int8)
    return (scale_NG.unsqueeze(2) * whole.unflatten(1, (16, 16)).float()).flatten(1)


def _six_bit_pairs(packed: Tensor) -> tuple[Tensor, Tensor]:
    """8 scales and 8 minima of 6 bits each in 12 bytes, `(N, 8)` each."""
    first, second, rest = packed.split(4, dim=1)
    scales = torch.cat([first & 63, (rest & 15) | ((first >> 2) & 48)], dim=1)
    minima = torch.cat([second & 63, (rest >> 4) | ((second >> 2) & 48)], dim=1)
    return scales, minima


def _scaled_above_least(blocks: Tensor, whole_NW: Tensor) -> Tensor:
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    scale_NG, least_NG = _half(blocks, 0) * scales.float(), _half(blocks, 2) * minima.float()
    whole_NGJ = whole_NW.unflatten(1, (8, 32)).float()
    return (scale_NG.unsqueeze(2) * whole_NGJ - least_NG.unsqueeze(2)).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    return _scaled_above_least(blocks, _bits(blocks[:, 16:], 32, 4))


def _q5_k(blocks: Tensor) -> Tensor:
    fifth = _bits(blocks[:, 16:48], 32, 1)
    return _scaled_above_least(blocks, _bits(blocks[:, 48:], 32, 4) | (fifth << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    whole = _bits(blocks[:, :128], 64, 4) | (_bits(blocks[:, 128:192], 32, 2) << 4)
    scale_NG = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    whole_NGJ = (whole.to(torch.int8) - 32).unflatten(1, (16, 16)).float()
    return (scale_NG.unsqueeze(2) * whole_NGJ).flatten(1)


CODECS: Mapping[str, Codec] = {
    "q4_0": Codec(32, 18, (0,), _q4_0),
    "q4_1": Codec(32, 20, (0, 2), _q4_1),
    "q5_0": Codec(32, 22, (0,), _q5_0),
    "q5_1": Codec(32, 24, (0, 2), _q5_1),
    "q8_0": Codec(32, 34, (0,), _q8_0),
    "q2_k": Codec(256, 84, (80, 82), _q2_k),
    "q3_k": Codec(256, 110, (108,), _q3_k),
    "q4_k": Codec(256, 144, (0, 2), _q4_k),
    "q5_k": Codec(256, 176, (0, 2), _q5_k),
    "q6_k": Codec(256, 210, (208,), _q6_k),
}
"""The kinds of block that are understood, by ggml's names in small letters."""
