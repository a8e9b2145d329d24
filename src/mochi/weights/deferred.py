"""A network whose blocks stay in the file: mapped, looked at and put together when they are used.

`load_dit` reads every weight once, to look for NaN, and joins what a layout keeps in pieces. For a
model that is to pass through memory block by block, both have to wait until the blocks pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mochi.model.dit import AsymmDiT
from mochi.model.stored import is_stored
from mochi.weights.checkpoint import PartView, Source
from mochi.weights.folder import open_part
from mochi.weights.loading import WeightReader, assign, keep_small, placed
from mochi.weights.networks import DIT
from mochi.weights.ops import STACK
from mochi.weights.stored import Stored

BLOCKS = "blocks."


@dataclass(frozen=True)
class Deferred:
    """A weight that is made from tensors of the file each time it is needed: put together from
    several, or decoded.

    Attributes:
        whole: the weight.
        pieces: what the file has of it.
        dtype: what it is read as.
    """

    whole: Stored
    pieces: tuple[Stored, ...]
    dtype: torch.dtype

    def read(self) -> Tensor:
        """The weight, in memory of its own."""
        return self.whole.dense(self.dtype)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight in another dtype, for whoever changes it (adapters that are merged)."""
        return self.whole.dense(dtype)

    def sources(self) -> list[Tensor]:
        """The mapped tensors that it is made from."""
        return [tensor for piece in self.pieces for tensor in piece.raw.values()]


@dataclass(frozen=True)
class DeferredDit:
    """A transformer of which only what is outside its blocks was read.

    Attributes:
        network: parameters of its blocks are mapped, or stand-ins of NaN where they are deferred.
        deferred: how to get the latter, by `id` of the parameter.
        check: looks at parameters and buffers of a block; raises `WeightsError` where one is not
            finite. Tensors that did not come from the file are passed over.
    """

    network: AsymmDiT
    deferred: Mapping[int, Deferred]
    check: Callable[[Sequence[Tensor]], None]


def load_dit_deferred(
    source: Source,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    dequantize: bool = False,
) -> DeferredDit:
    """The AsymmDiT in a checkpoint, its blocks unread.

    Args:
        source: as of `load_dit`.
        device: where what is outside the blocks goes; the blocks stay on the CPU.
        dtype: of what is outside the blocks, and what quantised layers compute in; None as
            `load_dit`. Plain weights of blocks keep the dtype of the file.
        dequantize: decode quantised weights whenever a block is made ready, not in each layer.

    Raises:
        WeightsError: as `load_dit`, but for what is inside the blocks.
    """
    view = open_part("dit", source)
    view.check()
    network = DIT.empty(view.config)
    names = list(network.state_dict())
    reader = WeightReader(view, "cpu", check_finite=True)
    unread = WeightReader(view, "cpu", check_finite=False)
    small = _small_names(view, names)
    chosen = dtype or (torch.float32 if small else None)
    state, deferred = {}, {}
    for name in names:
        if not name.startswith(BLOCKS):
            state[name] = placed(name, reader.read(name).dense(), device, chosen)
            continue
        stored = view.read(name)
        if name in small and not dequantize:
            weight = unread.read(name)
            if not keep_small(network, name, weight, "cpu", chosen or torch.float32):
                state[name] = weight.dense(chosen)
        elif name in small or not is_direct(view, name):
            kind = stored.load(True).dense(chosen if name in small else None).dtype
            deferred[name] = Deferred(stored, _pieces(view, name), kind)
        else:
            state[name] = unread.read(name).dense()
    assign(network, state)
    found = {id(_stand_in(network, name, it)): it for name, it in deferred.items()}
    return DeferredDit(network, found, _Check(view, network))


def is_direct(view: PartView, name: str) -> bool:
    """Whether the file has a weight as it is, in one piece and in our order."""
    sources = view.names.sources(name)
    return len(sources.names) == 1 and sources.op is STACK


def _small_names(view: PartView, names: Sequence[str]) -> set[str]:
    return {name for name in names if view.read(name).load(True).is_small}


def _pieces(view: PartView, name: str) -> tuple[Stored, ...]:
    """What a weight is made of."""
    return tuple(view.tensors[source] for source in view.names.sources(name).names)


def _stand_in(network: nn.Module, name: str, weight: Deferred) -> nn.Parameter:
    """A parameter of the right shape, dtype and device that takes no memory, and whose values
    spoil whatever computes with them."""
    path, _, last = name.rpartition(".")
    nothing = torch.full((), torch.nan, dtype=weight.dtype).expand(weight.whole.shape)
    parameter, layer = nn.Parameter(nothing, requires_grad=False), network.get_submodule(path)
    layer.register_parameter(last, parameter)
    if last == "weight":
        vars(layer)["dense"] = weight.dense  # as layers with stored weights have it
    return parameter


class _Check:
    """Finds a tensor's name by its identity, and reads it as if it was loaded now."""

    def __init__(self, view: PartView, network: nn.Module):
        self._reader = WeightReader(view, "cpu", check_finite=True)
        self._names: dict[int, tuple[Tensor, str]] = {}  # holds them: an id may be used again
        for name, parameter in network.named_parameters():
            self._names[id(parameter)] = parameter, name
        for path, layer in network.named_modules():
            if is_stored(layer):
                for buffer in layer.buffers(recurse=False):
                    self._names[id(buffer)] = buffer, f"{path}.weight"

    def __call__(self, tensors: Sequence[Tensor]) -> None:
        known = (self._names[id(tensor)][1] for tensor in tensors if id(tensor) in self._names)
        for name in dict.fromkeys(known):
            self._reader.read(name)
        self._reader.finish()
