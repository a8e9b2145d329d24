"""What a plan has to know of a network, read off the headers of its files."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from mochi.memory.need import Sizes, Weights
from mochi.weights.checkpoint import PartView
from mochi.weights.deferred import is_direct
from mochi.weights.loading import ALWAYS_FLOAT32, STAYS_SMALL
from mochi.weights.names import Part

_BLOCKS: dict[Part, re.Pattern[str]] = {
    "dit": re.compile(r"blocks\.(\d+)\."),
    "t5": re.compile(r"encoder\.block\.(\d+)\."),
}
_MODULATION = re.compile(r"blocks\.\d+\.mod_[xy]\.")


@dataclass(frozen=True)
class Blueprint:
    """A network before it is loaded.

    Attributes:
        config: its sizes.
        dtype: what most of it computes in.
        weights: bytes, as stored and as loaded.
    """

    config: Any
    dtype: torch.dtype
    weights: Weights


def blueprint_of(view: PartView, dtype: torch.dtype | None, dequantize: bool = False) -> Blueprint:
    """One part, of which nothing but headers is read.

    Args:
        view: the part.
        dtype: what plain weights become; None keeps what is stored.
        dequantize: quantised weights are decoded when they are loaded.

    Raises:
        WeightsError: names or shapes are not those of its network.
    """
    view.check()
    weights, largest = _weights(view, dtype, dequantize)
    return Blueprint(view.config, dtype or largest, weights)


class _Tally:
    """Adds up bytes, a block at a time."""

    def __init__(self) -> None:
        self.rest = 0
        self.blocks: defaultdict[str, int] = defaultdict(int)
        self.modulation: defaultdict[str, int] = defaultdict(int)

    def add(self, name: str, block: str | None, nbytes: int) -> None:
        if block is None:
            self.rest += nbytes
        elif _MODULATION.match(name):
            self.modulation[block] += nbytes
        else:
            self.blocks[block] += nbytes

    @property
    def sizes(self) -> Sizes:
        return Sizes(
            self.rest,
            sum(self.blocks.values()),
            max(self.blocks.values(), default=0),
            sum(self.modulation.values()),
            max(self.modulation.values(), default=0),
        )


def _weights(
    view: PartView, dtype: torch.dtype | None, dequantize: bool
) -> tuple[Weights, torch.dtype]:
    """The sizes, and the dtype that the largest weight computes in."""
    stored, ready = _Tally(), _Tally()
    in_place, largest, main = True, 0, torch.float32
    for name, shape in view.shapes.items():
        tensor = view.read(name)
        pattern = _BLOCKS.get(view.part)
        found = pattern.match(name) if pattern else None
        block = found.group(1) if found else None
        stored.add(name, block, tensor.nbytes)
        kept = tensor.load(True)
        small = kept.is_small and view.part in STAYS_SMALL and not dequantize
        becomes = torch.float32 if kept.is_small else kept.dense().dtype
        becomes = torch.float32 if name in ALWAYS_FLOAT32 else dtype or becomes
        ready.add(name, block, tensor.nbytes if small else prod(shape) * becomes.itemsize)
        if not small and (block is not None or pattern is None):
            in_place &= not kept.is_small and kept.data.dtype == becomes and is_direct(view, name)
        if tensor.nbytes > largest:
            largest, main = tensor.nbytes, becomes
    return Weights(stored.sizes, ready.sizes, in_place, largest), main
