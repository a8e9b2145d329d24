"""A frozen base spread over the devices of a training: each keeps a part of every block.

A block's weights come together for its turn, on the way there and, as it computes again, on the way
back. What autograd keeps for the way back are the tensors of that turn, which go with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mochi.model.residency import Block, Resident
from mochi.parallel.group import Group
from mochi.parallel.shares import shares, spans

WEIGHTS = "weights"
_ALIGNMENT = 16
"""Bytes; each weight begins at such a place, whatever its dtype."""


@dataclass(frozen=True)
class _Place:
    """Where a weight of a block lies in the flat buffer, and whose it is."""

    module: nn.Module
    name: str
    start: int
    stop: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    is_parameter: bool

    @property
    def nbytes(self) -> int:
        """Of the weight alone."""
        return prod(self.shape) * self.dtype.itemsize

    def put(self, tensor: Tensor) -> None:
        """Give it to its module, as a new object: autograd may still hold the one before."""
        if self.is_parameter:
            self.module._parameters[self.name] = nn.Parameter(tensor, requires_grad=False)
        else:
            self.module._buffers[self.name] = tensor


class ShardedWeights:
    """The frozen weights of some modules in parts; `together` brings them for a while.

    Args:
        modules: whose weights, adapters excepted; they have none from now on.
        group: all devices that keep a part; every one of them makes the same calls.
        device: this one.
    """

    def __init__(self, modules: Sequence[nn.Module], group: Group, device: torch.device):
        self._group, self._device = group, device
        self._places = list(_places(modules))
        self.nbytes = self._places[-1].stop if self._places else 0
        self._sizes = shares(self.nbytes, group.size)
        self._mine = self._part(spans(self._sizes)[group.place]).to(device)
        self._empty()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, the modules have their weights."""
        shapes = [(size,) for size in self._sizes]
        flat = torch.cat(self._group.share(self._mine, shapes, WEIGHTS))
        for place in self._places:
            taken = flat[place.start : place.start + place.nbytes]
            place.put(taken.view(place.dtype).view(place.shape))
        try:
            yield
        finally:
            self._empty()

    def _part(self, span: slice) -> Tensor:
        """This device's part of the flat buffer, of which never more is in memory."""
        mine = torch.zeros(span.stop - span.start, dtype=torch.uint8)
        for place in self._places:
            weight = _current(place).detach().cpu().reshape(-1).view(torch.uint8)
            first = max(place.start, span.start)
            last = min(place.start + weight.numel(), span.stop)
            if first < last:
                mine[first - span.start : last - span.start] = weight[
                    first - place.start : last - place.start
                ]
        return mine

    def _empty(self) -> None:
        for place in self._places:
            place.put(torch.empty(0, dtype=place.dtype, device=self._device))


class ShardedBase(Resident):
    """The `Residency` of a transformer whose base is in parts.

    Args:
        blocks: of the transformer, with the adapter that learns on them.
        group: all devices.
        device: this one.
    """

    def __init__(self, blocks: Sequence[nn.Module], group: Group, device: torch.device):
        self._blocks: dict[int, ShardedWeights] = {}
        self._modulation: dict[int, ShardedWeights] = {}
        for block in blocks:
            modulation = [block.get_submodule(name) for name in ("mod_x", "mod_y")]
            others = [child for child in block.children() if child not in modulation]
            self._modulation[id(block)] = ShardedWeights(modulation, group, device)
            self._blocks[id(block)] = ShardedWeights(others, group, device)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights that are in parts, on all devices together."""
        every = (*self._blocks.values(), *self._modulation.values())
        return sum(weights.nbytes for weights in every)

    def walk(self, blocks: Sequence[Block]) -> Iterator[Block]:
        for block in blocks:
            yield _Gathered(block, self._blocks[id(block)])  # type: ignore[misc]

    def walk_modulation(self, blocks: Sequence[Block]) -> Iterator[Block]:
        for block in blocks:
            with self._modulation[id(block)].together():
                yield block


class _Gathered:
    """A block that has its weights only while it computes; to the network it is the block."""

    def __init__(self, block: nn.Module, weights: ShardedWeights):
        self._block: Any = block
        self._weights = weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def __call__(self, streams: Any, factors: Any, following: Any, means: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._run(streams, factors, following, means)
        _ = means.rotary.cos_sin  # as in `Recomputed`
        return checkpoint(self._run, streams, factors, following, means, use_reentrant=False)

    def _run(self, *inputs: Any) -> Any:
        with self._weights.together():
            return self._block(*inputs)


def _places(modules: Sequence[nn.Module]) -> Iterator[_Place]:
    start = 0
    for root in modules:
        for module in root.modules():
            kinds = ((module._parameters, True), (module._buffers, False))
            for tensors, is_parameter in kinds:
                for name, tensor in tensors.items():
                    if tensor is None or tensor.requires_grad:
                        continue
                    stop = start + -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
                    kind = tensor.dtype, tuple(tensor.shape)
                    yield _Place(module, name, start, stop, *kind, is_parameter)
                    start = stop


def _current(place: _Place) -> Tensor:
    tensors = place.module._parameters if place.is_parameter else place.module._buffers
    found = tensors[place.name]
    assert found is not None
    return found
