"""Sums over ranks: every rank gets the same bits, whatever order things arrive in.

Each rank adds up one share of the numbers, in the order of the ranks, and the shares go round:
about twice the bytes of the numbers leave each rank, however many ranks there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mochi.parallel.group import Group
from mochi.parallel.shares import shares

_AT_ONCE = 2**26
"""Bytes that travel together: many small tensors cost one message."""


@torch.no_grad()
def sum_in_place(tensors: Sequence[Tensor], group: Group, purpose: str) -> None:
    """Each tensor becomes its sum over the ranks. All ranks give tensors of the same shapes."""
    if group.size == 1:
        return
    for batch in _batches(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in batch])
        total = _summed(flat, group, purpose)
        for tensor, part in zip(batch, total.split([t.numel() for t in batch]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _summed(flat: Tensor, group: Group, purpose: str) -> Tensor:
    sizes = shares(flat.numel(), group.size)
    mine = (sizes[group.place],)
    received = group.swap(list(flat.split(sizes)), [mine] * group.size, purpose).wait()
    total = received[0].clone()
    for part in received[1:]:
        total += part
    return torch.cat(group.share(total, [(size,) for size in sizes], purpose))


def _batches(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, up to so many bytes together."""
    batch: list[Tensor] = []
    for tensor in tensors:
        size = sum(one.nbytes for one in batch)
        if batch and (tensor.dtype != batch[0].dtype or size + tensor.nbytes > _AT_ONCE):
            yield batch
            batch = []
        batch.append(tensor)
    if batch:
        yield batch
