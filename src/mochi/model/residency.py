"""Where the blocks' weights are while a network runs: all in place, unless somebody says otherwise.

A network walks through its blocks in order and computes with each while it is the current one. What
brings weights from host memory or from a file just before that, and lets them go afterwards,
has the same two methods; the network does not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from torch import nn

Block = TypeVar("Block", bound=nn.Module)


class Residency(Protocol):
    """Makes blocks ready, one after the other."""

    def walk(self, blocks: Sequence[Block]) -> Iterator[Block]:
        """Each block in turn, ready to compute until the next is asked for. All passes of a step
        run while it is. Its modulation layers (`mod_x`, `mod_y`) are not used then."""
        ...

    def walk_modulation(self, blocks: Sequence[Block]) -> Iterator[Block]:
        """Each block in turn with its modulation layers ready, and nothing else. Once before a
        run, if the run is prepared; else before each step."""
        ...


class Resident:
    """The `Residency` of a network whose weights are all in place."""

    def walk(self, blocks: Sequence[Block]) -> Iterator[Block]:
        return iter(blocks)

    def walk_modulation(self, blocks: Sequence[Block]) -> Iterator[Block]:
        return iter(blocks)
