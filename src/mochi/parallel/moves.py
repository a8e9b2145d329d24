"""Moves of tensors between ranks that gradients can follow.

Every rank computes the same text stream and holds the same weights, so a gradient on one rank is
its own part of the whole: the sum over ranks is the gradient that one device would have. Each
backward pass below keeps that true.
"""

# Shapes: a tensor is cut along one dimension and put together along another.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mochi.parallel.group import Group, Shape
from mochi.parallel.shares import spans


class _Repartition(torch.autograd.Function):
    """All ranks cut their tensor along `cut` and put what they get together along `join`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        group: Group,
        cut: int,
        cut_sizes: tuple[int, ...],
        join: int,
        join_sizes: tuple[int, ...],
        purpose: str,
    ) -> Tensor:
        ctx.arguments = group, join, join_sizes, cut, cut_sizes, purpose
        return _repartitioned(x, group, cut, cut_sizes, join, join_sizes, purpose)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _repartitioned(gradient, *ctx.arguments), None, None, None, None, None, None


def repartition(
    x: Tensor,
    group: Group,
    cut: int,
    cut_sizes: tuple[int, ...],
    join: int,
    join_sizes: tuple[int, ...],
    purpose: str,
) -> Tensor:
    """All-to-all: rank i gets `cut_sizes[i]` along `cut` of everybody's tensor.

    Args:
        x: `cut_sizes` long along `cut`, and this rank's own of `join_sizes` along `join`.
        group: the ranks.
        cut, join: dimensions, counted from the front.
        cut_sizes, join_sizes: what each rank has of them, afterwards and before.
        purpose: what the bytes are counted as.

    Returns:
        This rank's own of `cut_sizes` along `cut`, all of `join_sizes` along `join`.
    """
    if group.size == 1:
        return x
    moved: Tensor = _Repartition.apply(x, group, cut, cut_sizes, join, join_sizes, purpose)  # type: ignore[no-untyped-call]
    return moved


def _repartitioned(
    x: Tensor,
    group: Group,
    cut: int,
    cut_sizes: tuple[int, ...],
    join: int,
    join_sizes: tuple[int, ...],
    purpose: str,
) -> Tensor:
    parts = [part.contiguous() for part in x.split(cut_sizes, dim=cut)]
    shapes = [_resized(x.shape, {cut: cut_sizes[group.place], join: n}) for n in join_sizes]
    return torch.cat(group.swap(parts, shapes, purpose).wait(), dim=join)


class _GatherReplicated(torch.autograd.Function):
    """Forward: everyone's share. Backward: this rank's share of this rank's gradient, since what
    follows, up to the loss, is computed by every rank alike and counts once."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, group: Group, dim: int, sizes: tuple[int, ...], purpose: str
    ) -> Tensor:
        ctx.dim, ctx.span = dim, spans(sizes)[group.place]
        return gathered(x, group, dim, sizes, purpose)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _slice(gradient, ctx.dim, ctx.span), None, None, None, None


class _GatherPartial(torch.autograd.Function):
    """Forward: everyone's share. Backward: the sum of everyone's gradients of this rank's share,
    since what follows on each rank is a part of the whole."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, group: Group, dim: int, sizes: tuple[int, ...], purpose: str
    ) -> Tensor:
        ctx.arguments = group, dim, sizes, purpose
        return gathered(x, group, dim, sizes, purpose)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        group, dim, sizes, purpose = ctx.arguments
        parts = [part.contiguous() for part in gradient.split(sizes, dim=dim)]
        shapes = [tuple(parts[group.place].shape)] * group.size
        mine = torch.stack(group.swap(parts, shapes, purpose).wait()).sum(dim=0)
        return mine, None, None, None, None


def gather_replicated(
    x: Tensor, group: Group, dim: int, sizes: tuple[int, ...], purpose: str
) -> Tensor:
    """Everyone's share along `dim`, for what all ranks compute alike from here on."""
    if group.size == 1:
        return x
    whole: Tensor = _GatherReplicated.apply(x, group, dim, sizes, purpose)  # type: ignore[no-untyped-call]
    return whole


def gather_partial(
    x: Tensor, group: Group, dim: int, sizes: tuple[int, ...], purpose: str
) -> Tensor:
    """Everyone's share along `dim`, for what has its own effect on each rank."""
    if group.size == 1:
        return x
    whole: Tensor = _GatherPartial.apply(x, group, dim, sizes, purpose)  # type: ignore[no-untyped-call]
    return whole


def gathered(x: Tensor, group: Group, dim: int, sizes: tuple[int, ...], purpose: str) -> Tensor:
    """Everyone's share along `dim`, without gradients."""
    shapes = [_resized(x.shape, {dim: size}) for size in sizes]
    return torch.cat(group.share(x.contiguous(), shapes, purpose), dim=dim)


def _resized(shape: torch.Size, sizes: dict[int, int]) -> Shape:
    return tuple(sizes.get(dim, size) for dim, size in enumerate(shape))


def _slice(x: Tensor, dim: int, span: slice) -> Tensor:
    return x.narrow(dim, span.start, span.stop - span.start)
