"""Ring attention: keys and values travel from rank to rank, queries stay.

While a rank attends to the keys it has, those of the rank before are on their way. Parts are put
together by their sums of exponentials, so no rank ever holds all keys.
"""

# Shapes: B batch, S = N + L local tokens, N visual, L text, H heads, K head_dim, 2 = k and v.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mochi.parallel.group import Group
from mochi.parallel.partial import attend_part, merge, part_gradients

PURPOSE = "ring"


class RingAttention:
    """An attention kernel for tokens that are spread over a group.

    Every rank has its own visual tokens and all text tokens behind them. The text attends on every
    rank alike, and its keys do not travel.

    Attributes:
        group: the ranks of the ring.
        visual: visual tokens of each rank; set before each call.
        overlap: whether the next keys travel while the present ones are used.
    """

    def __init__(self, group: Group, overlap: bool = True):
        self.group = group
        self.visual: tuple[int, ...] = ()
        self.overlap = overlap

    def __call__(self, q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
        """Attention of all local queries to everybody's keys."""
        out: Tensor = _Ring.apply(q_BSHK, k_BSHK, v_BSHK, self.group, self.visual, self.overlap)  # type: ignore[no-untyped-call]
        return out


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        group: Group,
        visual: tuple[int, ...],
        overlap: bool,
    ) -> Tensor:
        here = visual[group.place]
        travelling = torch.stack([k[:, :here], v[:, :here]])
        parts = None
        for turn in range(group.size):
            pending = None
            if turn + 1 < group.size and overlap:
                pending = group.shift(travelling, _shape(travelling, group, visual, turn), PURPOSE)
            keys, values = (k, v) if turn == 0 else travelling.unbind(0)
            if keys.shape[1]:
                seen = attend_part(q, keys, values)
                parts = seen if parts is None else merge(parts, seen)
            if turn + 1 < group.size:
                if pending is None:
                    shape = _shape(travelling, group, visual, turn)
                    pending = group.shift(travelling, shape, PURPOSE)
                (travelling,) = pending.wait()
        assert parts is not None
        out = parts[0].to(q.dtype)
        ctx.save_for_backward(q, k, v, out, parts[1])
        ctx.arguments = group, visual
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        group, visual = ctx.arguments
        here = visual[group.place]
        dq, dk, dv = part_gradients(gradient, q, k, v, out, lse)
        travelling = torch.stack([k[:, :here], v[:, :here]])
        # Gradients go the same way round as the keys they belong to, and arrive at home at last.
        owed = torch.stack([dk[:, :here], dv[:, :here]])
        for turn in range(group.size - 1):
            shape = _shape(travelling, group, visual, turn)
            (travelling,) = group.shift(travelling, shape, PURPOSE).wait()
            (owed,) = group.shift(owed, shape, PURPOSE).wait()
            keys, values = travelling.unbind(0)
            more_q, more_k, more_v = part_gradients(gradient, q, keys, values, out, lse)
            dq = dq + more_q
            owed = owed + torch.stack([more_k, more_v])
        home = (2, owed.shape[1], here, *owed.shape[3:])
        (owed,) = group.shift(owed, home, PURPOSE).wait()
        dk = torch.cat([owed[0], dk[:, here:]], dim=1).to(k.dtype)
        dv = torch.cat([owed[1], dv[:, here:]], dim=1).to(v.dtype)
        return dq.to(q.dtype), dk, dv, None, None, None


def _shape(travelling: Tensor, group: Group, visual: tuple[int, ...], turn: int) -> tuple[int, ...]:
    """Of the keys and values that arrive in this turn: they began `turn + 1` ranks before."""
    count = visual[(group.place - turn - 1) % group.size]
    two, batch, _, heads, width = travelling.shape
    return (two, batch, count, heads, width)
