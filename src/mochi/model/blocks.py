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


def _part(blocks: Tensor, start: int, end: int) -> Tensor:
    """Some bytes of each block, in memory of their own: at any address, whatever the block's."""
    return blocks[:, start:end].clone(memory_format=torch.contiguous_format)


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 at an offset of each block, as float32 `(N, 1)`."""
    return _part(blocks, start, start + 2).view(torch.float16).float()


def _signed(blocks: Tensor, start: int, end: int) -> Tensor:
    """Signed bytes as float32."""
    return _part(blocks, start, end).view(torch.int8).float()


def _bits(packed: Tensor, run: int, bits: int) -> Tensor:
    """Unpack: runs of `run` bytes, of each run the lowest `bits` of all bytes, then the next.

    Four bytes are shifted at once: bits that cross into a neighbour are masked off, and shifts by
    one number are fast (1700 against 120 M weights/s for q4_0 on one Xeon core).

    Args:
        packed: as `_part` gives it, so that four bytes can be seen as one number.
        run: bytes.
        bits: of a number.

    Returns:
        uint8 `(N, weights)`.
    """
    words, mask = packed.view(torch.int32), (2**bits - 1) * 0x01010101
    shifted = [
        ((words >> shift) & mask).view(torch.uint8).unflatten(1, (-1, run))
        for shift in range(0, 8, bits)
    ]
    return torch.stack(shifted, 2).flatten(1)


def _fifth_bits(packed: Tensor) -> Tensor:
    """32 bits in 4 bytes, the lowest first, as uint8 `(N, 32)` of 0 and 16."""
    shifted = [((packed >> shift) & 1) << 4 for shift in range(8)]
    return torch.stack(shifted, 2).flatten(1)


# ----------------------------------------------------------------------------------- blocks of 32


def _q4_0(blocks: Tensor) -> Tensor:
    return (_bits(_part(blocks, 2, 18), 16, 4).float() - 8).mul_(_half(blocks, 0))


def _q4_1(blocks: Tensor) -> Tensor:
    scaled = _bits(_part(blocks, 4, 20), 16, 4).float().mul_(_half(blocks, 0))
    return scaled.add_(_half(blocks, 2))


def _q5_0(blocks: Tensor) -> Tensor:
    whole = _bits(_part(blocks, 6, 22), 16, 4) | _fifth_bits(blocks[:, 2:6])
    return (whole.float() - 16).mul_(_half(blocks, 0))


def _q5_1(blocks: Tensor) -> Tensor:
    whole = _bits(_part(blocks, 8, 24), 16, 4) | _fifth_bits(blocks[:, 4:8])
    return whole.float().mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q8_0(blocks: Tensor) -> Tensor:
    return _signed(blocks, 2, 34).mul_(_half(blocks, 0))


# --------------------------------------------------------------- "K": groups in blocks of 256


def _scaled(whole_NW: Tensor, scale_NG: Tensor, least_NG: Tensor | None = None) -> Tensor:
    """`scale * number - least`, a scale and a least value for each group."""
    out_NGJ = whole_NW.float().unflatten(1, (scale_NG.shape[1], -1)).mul_(scale_NG.unsqueeze(2))
    return (out_NGJ if least_NG is None else out_NGJ.sub_(least_NG.unsqueeze(2))).flatten(1)


def _q2_k(blocks: Tensor) -> Tensor:
    packed = blocks[:, :16]
    scale_NG = _half(blocks, 80) * (packed & 15).float()
    least_NG = _half(blocks, 82) * (packed >> 4).float()
    return _scaled(_bits(_part(blocks, 16, 80), 32, 2), scale_NG, least_NG)


def _q3_k(blocks: Tensor) -> Tensor:
    low = _bits(_part(blocks, 96, 104), 8, 4)  # 16 scales of 6 bits: four of them here ...
    high = _bits(_part(blocks, 104, 108), 4, 2)  # ... two here
    scale_NG = _half(blocks, 108) * ((low | (high << 4)).float() - 32)
    absent = _bits(_part(blocks, 0, 32), 32, 1) ^ 1  # 4 is taken off where the third bit is 0
    whole = _bits(_part(blocks, 32, 96), 32, 2).to(torch.int8) - (absent << 2).to(torch.int8)
    return _scaled(whole, scale_NG)


def _six_bit_pairs(packed: Tensor) -> tuple[Tensor, Tensor]:
    """8 scales and 8 minima of 6 bits each in 12 bytes, `(N, 8)` each."""
    first, second, rest = packed.split(4, dim=1)
    scales = torch.cat([first & 63, (rest & 15) | ((first >> 2) & 48)], dim=1)
    minima = torch.cat([second & 63, (rest >> 4) | ((second >> 2) & 48)], dim=1)
    return scales, minima


def _scaled_above_least(blocks: Tensor, whole_NW: Tensor) -> Tensor:
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    scale_NG, least_NG = _half(blocks, 0) * scales.float(), _half(blocks, 2) * minima.float()
    return _scaled(whole_NW, scale_NG, least_NG)


def _q4_k(blocks: Tensor) -> Tensor:
    return _scaled_above_least(blocks, _bits(_part(blocks, 16, 144), 32, 4))


def _q5_k(blocks: Tensor) -> Tensor:
    fifth = _bits(_part(blocks, 16, 48), 32, 1)
    return _scaled_above_least(blocks, _bits(_part(blocks, 48, 176), 32, 4) | (fifth << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    high = _bits(_part(blocks, 128, 192), 32, 2)
    whole = _bits(_part(blocks, 0, 128), 64, 4) | (high << 4)
    return _scaled(whole.to(torch.int8) - 32, _half(blocks, 208) * _signed(blocks, 192, 208))


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
