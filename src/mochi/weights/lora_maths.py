"""Pairs of matrices brought into another form without changing what they do to a layer.

Shares of a joint layer (q, k, v) become one pair with A stacked and B block-diagonal; with equal
A's, one pair with that A. Both are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import reduce

import torch

from mochi.weights.lora import Pair
from mochi.weights.lora_scales import is_power_of_two


def whole(pairs: Sequence[Pair]) -> Pair:
    """One pair for a layer; what no share changes has zeros in B."""
    if pairs[0].parts == 1:
        return pairs[0]
    scale = next((pair.scale for pair in pairs if pair.scale), pairs[0].scale)
    shares = [rescaled(pair, scale) for pair in pairs]
    return _shared(shares) if _same_a(shares) else _stacked(shares)


def rescaled(pair: Pair, scale: Fraction) -> Pair:
    """The same with another alpha / r: the difference goes into B.

    Exact where the quotient is a power of two (and where nothing is to be done, which is the
    rule); rounded to B's dtype otherwise.
    """
    if pair.scale == scale:
        return pair
    return replace(pair, b=pair.b * float(pair.scale / scale), scale=scale)


def folded(pair: Pair) -> tuple[Pair, Fraction]:
    """The same with alpha = r, if B can take the rest exactly; and what B was multiplied with.

    That is so where alpha / r is a power of two, unless numbers leave the range of B's dtype.
    """
    factor = pair.scale
    if factor != 1 and is_power_of_two(factor):
        b = pair.b * float(factor)
        if (b / float(factor)).equal(pair.b):
            return replace(pair, b=b, scale=Fraction(1)), factor
    return pair, Fraction(1)


def unfolded(pair: Pair, factor: Fraction) -> Pair:
    """What `folded` was given."""
    return replace(pair, b=pair.b / float(factor), scale=pair.scale * factor)


def padded(pair: Pair, rank: int) -> Pair:
    """The same at a larger rank, with zeros."""
    more = rank - pair.rank
    if not more:
        return pair
    a = torch.cat([pair.a, pair.a.new_zeros(more, pair.a.shape[1])])
    b = torch.cat([pair.b, pair.b.new_zeros(len(pair.b), more)], dim=1)
    return replace(pair, a=a, b=b)


def _same_a(pairs: Sequence[Pair]) -> bool:
    first = pairs[0].a
    return all(pair.a.dtype == first.dtype and pair.a.equal(first) for pair in pairs)


def _shared(pairs: Sequence[Pair]) -> Pair:
    return replace(pairs[0], b=_blocks(pairs, [0] * len(pairs), pairs[0].rank), part=0, parts=1)


def _stacked(pairs: Sequence[Pair]) -> Pair:
    dtype = reduce(torch.promote_types, (pair.a.dtype for pair in pairs))
    a = torch.cat([pair.a.to(dtype) for pair in pairs])
    columns = [sum(pair.rank for pair in pairs[:index]) for index in range(len(pairs))]
    return replace(pairs[0], a=a, b=_blocks(pairs, columns, len(a)), part=0, parts=1)


def _blocks(pairs: Sequence[Pair], columns: Sequence[int], rank: int) -> torch.Tensor:
    """B of the whole layer: each share's rows, from a column on; zeros elsewhere."""
    rows = len(pairs[0].b)
    dtype = reduce(torch.promote_types, (pair.b.dtype for pair in pairs))
    b = torch.zeros(rows * pairs[0].parts, rank, dtype=dtype)
    for pair, column in zip(pairs, columns, strict=True):
        b[pair.part * rows : (pair.part + 1) * rows, column : column + pair.rank] = pair.b
    return b
