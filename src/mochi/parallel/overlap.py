"""The all-to-all between tokens and heads in parts, so that one travels while another is computed.

A rank's tokens are cut into a few parts. On the way into attention, a part's queries, keys and
values travel while the products of the next part are computed. On the way out, a part's heads
travel while the part before it goes through the projection. Rows of a product do not see each
other, so the numbers are those of one piece.
"""

# Shapes: B batch, N all tokens of the group, n this rank's, H heads, h this rank's, K head_dim,
#         3 = q, k, v.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mochi.model.kernels import QKV
from mochi.parallel.group import Group
from mochi.parallel.shares import shares, spans

PARTS = 4
"""Of what a rank has. All but one in so many can hide; more make smaller products."""


def parts_of(tokens: Sequence[int], wanted: int = PARTS) -> int:
    """In how many parts ranks with so many tokens each cut them: never into empty ones."""
    return max(1, min(wanted, *tokens))


def to_heads(
    parts: Iterable[QKV],
    group: Group,
    tokens: Sequence[int],
    heads: tuple[int, ...],
    count: int,
    purpose: str,
) -> QKV:
    """All tokens of this rank's heads.

    Args:
        parts: q, k, v of this rank's tokens, `(B, n / count, H, K)` each; made when asked for.
        group: the ranks.
        tokens, heads: what each rank has of them, before and after.
        count: how many parts.
        purpose: what the bytes are counted as.
    """
    pending = []
    for place, part in enumerate(parts):
        qkv_3BnHK = torch.stack(part)
        three, batch, _, _, width = qkv_3BnHK.shape
        leaving = [piece.contiguous() for piece in qkv_3BnHK.split(heads, dim=3)]
        mine = heads[group.place]
        shapes = [(three, batch, shares(n, count)[place], mine, width) for n in tokens]
        pending.append(group.swap(leaving, shapes, purpose))
    arrived = [part.wait() for part in pending]
    in_order = [part[rank] for rank in range(group.size) for part in arrived]
    q, k, v = torch.cat(in_order, dim=2).unbind(0)
    return q, k, v


def to_tokens(
    out_BNhK: Tensor,
    group: Group,
    tokens: Sequence[int],
    heads: Sequence[int],
    count: int,
    purpose: str,
) -> Iterator[Tensor]:
    """This rank's tokens of all heads, `(B, n / count, H, K)` part after part; while one is used,
    the next ones are on their way.

    Args:
        out_BNhK: all tokens of this rank's heads.
        group, tokens, heads, count, purpose: as for `to_heads`.
    """
    batch, *_, width = out_BNhK.shape
    cut = [some.split(shares(some.shape[1], count), dim=1) for some in out_BNhK.split(tokens, 1)]
    pending = []
    for place, mine in enumerate(shares(tokens[group.place], count)):
        leaving = [parts[place].contiguous() for parts in cut]
        shapes = [(batch, mine, some, width) for some in heads]
        pending.append(group.swap(leaving, shapes, purpose))
    for part in pending:
        yield torch.cat(part.wait(), dim=2)


def part_spans(tokens: int, count: int) -> list[slice]:
    """Where a rank's parts lie among its tokens."""
    return spans(shares(tokens, count))
