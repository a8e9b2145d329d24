"""NaN and infinity in stored weights, found in one pass and without decoding them."""

from __future__ import annotations

import torch
from torch import Tensor

from mochi.core.errors import WeightsError
from mochi.model.blocks import Codec
from mochi.model.stored import FLOAT8, StoredWeight

_COUNTED_AT_ONCE = 1 << 22  # elements, so that the temporaries stay small
# Of float8, without the sign: the first pattern that is no number, and the one of half the range.
_FIRST_BAD = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7C}
_HALF_RANGE = {torch.float8_e4m3fn: 0x76, torch.float8_e5m2: 0x77}


def count_non_finite(weight: StoredWeight) -> int:
    """How many of its numbers (of a block: of its scales) are NaN or infinite."""
    bad = 0 if weight.scale is None else _floats(weight.scale)
    if weight.codec is not None:
        return bad + _block_scales(weight.data, weight.codec)
    if weight.data.dtype in FLOAT8:
        return bad + _float8(weight.data)
    return bad + _floats(weight.data)


def fills_float8(weight: StoredWeight) -> bool:
    """Whether float8 numbers go beyond half of what float8 can hold (224, or 28672).

    Those of plain casts never do: weights are small. Those that were divided by a scale all do.
    """
    half = _HALF_RANGE[weight.data.dtype]
    numbers = weight.data.view(torch.uint8).flatten()
    return any(int((part & 127).max()) >= half for part in numbers.split(_COUNTED_AT_ONCE))


def refuse_lost_scales(filled: int, matrices: int, path: str) -> None:
    """Refuse float8 matrices without scales, more than half of which fill the range of float8.

    Raises:
        WeightsError: the numbers were divided by scales, and nobody knows these any more.
    """
    if 2 * filled > matrices:
        raise WeightsError(
            f"has {filled} of {matrices} float8 matrices that fill the whole range of float8 and "
            "no scales: they were divided by scales that are missing, and without these give noise",
            path,
        )


def _floats(tensor: Tensor) -> int:
    """As a rule one pass without a temporary."""
    if not tensor.numel():
        return 0
    low, high = torch.aminmax(tensor)  # both become NaN where there is one
    if low.isfinite() and high.isfinite():
        return 0
    chunks = tensor.flatten().split(_COUNTED_AT_ONCE)
    return sum(int((~chunk.isfinite()).sum()) for chunk in chunks)


def _float8(tensor: Tensor) -> int:
    bad = _FIRST_BAD[tensor.dtype]
    chunks = tensor.view(torch.uint8).flatten().split(_COUNTED_AT_ONCE)
    return sum(int(((chunk & 127) >= bad).sum()) for chunk in chunks)


def _block_scales(data: Tensor, codec: Codec) -> int:
    blocks = data.view(-1, codec.bytes)
    return sum(
        _floats(part[:, at : at + 2].contiguous().view(torch.float16))
        for part in blocks.split(_COUNTED_AT_ONCE)
        for at in codec.scales
    )
