"""Weights that are spread over the ranks: each keeps a part of every block.

A block's weights are one flat buffer of bytes, in whatever dtypes they are stored. Each rank
keeps an equal part of it, and has read nothing else from the file. While a block computes, the
parts of the next one are on their way into the second of two buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from mochi.model.residency import Block
from mochi.parallel.group import Group, Pending

WEIGHTS = "weights"

PART_ALIGNMENT = 256
"""Bytes; a part begins at such a place of the flat buffer, so it never cuts a value."""


class Load(Protocol):
    """One block's weights as a flat buffer (`memory.cargo.Cargo` is one)."""

    @property
    def nbytes(self) -> int:
        """Size of the buffer."""
        ...

    def fill_part(self, part: Tensor, start: int, drops_pages: bool = False) -> None:
        """Copy what lies in a part of the buffer, and read nothing else."""
        ...

    def views(self, flat: Tensor) -> list[Tensor]:
        """The tensors as they lie in a buffer."""
        ...

    def attach(self, flat: Tensor) -> None:
        """Let the block compute with what is in a buffer."""
        ...

    def detach(self) -> None:
        """Let the block have what it had before."""
        ...


@dataclass(frozen=True)
class _Part:
    """What this rank keeps of one block."""

    load: Load
    bytes: Tensor


class ShardedBlocks:
    """Walks through the blocks of one network, whose weights come together for their turn.

    All ranks of the group walk alike.

    Args:
        load_of: a block's weights, unread, as a flat buffer.
        group: the ranks that share them; used for nothing else.
        device: where they compute.
        returns: the first block is wanted again after the last (the next step).
        overlap: whether a block's weights travel while the one before it computes.
        check: looks at a block's weights when they are first used; raises what the walk then
            raises.
        prepare: called with each block before its turn.

    Attributes:
        kept_bytes: what this rank keeps.
    """

    def __init__(
        self,
        load_of: Callable[[nn.Module], Load],
        group: Group,
        device: torch.device,
        *,
        returns: bool = True,
        overlap: bool = True,
        check: Callable[[Sequence[Tensor]], None] = lambda tensors: None,
        prepare: Callable[[nn.Module], object] = lambda block: None,
    ):
        self.group, self.device, self.overlap = group, device, overlap
        self._returns, self._check, self._prepare = returns, check, prepare
        self._load_of = load_of
        self._parts: dict[int, _Part] = {}
        self._checked: set[int] = set()
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._turn = 0
        self._coming: tuple[nn.Module, Tensor, Pending] | None = None

    @property
    def kept_bytes(self) -> int:
        return sum(part.bytes.numel() for part in self._parts.values())

    def keep(self, blocks: Iterable[nn.Module]) -> None:
        """Read this rank's part of blocks; the first walk does it for those that are new."""
        for block in blocks:
            if id(block) not in self._parts:
                self._parts[id(block)] = self._part(self._load_of(block))

    def walk(self, blocks: Sequence[Block]) -> Iterator[Block]:
        """The blocks in their order, each ready to compute until the next one is asked for.

        Raises:
            Exception: what the check raises, before the block is yielded.
        """
        self.keep(blocks)
        again = [blocks[0] if len(blocks) and self._returns else None]
        for block, following in zip(blocks, chain(blocks[1:], again), strict=False):
            flat = self._arrived(block)
            load = self._parts[id(block)].load
            self._prepare(block)
            if id(block) not in self._checked:
                self._check(load.views(flat))
                self._checked.add(id(block))
            if following is not None and self.overlap:
                self._coming = self._fetched(following)
            load.attach(flat)
            try:
                yield block
            finally:
                load.detach()

    def close(self) -> None:
        """Wait for what is under way and give the buffers back; a later walk is possible."""
        if self._coming is not None:
            self._coming[2].wait()
        self._coming = self._buffers = None

    def _part(self, load: Load) -> _Part:
        size = part_bytes(load.nbytes, self.group.size)
        mine = torch.zeros(size, dtype=torch.uint8, device=self.device)
        load.fill_part(mine, size * self.group.place, drops_pages=True)
        return _Part(load, mine)

    def _arrived(self, block: nn.Module) -> Tensor:
        """A block's weights: those under way, if they are this block's, else they are fetched."""
        coming, self._coming = self._coming, None
        if coming is not None and coming[0] is not block:
            coming[2].wait()
            coming = None
        _, flat, pending = coming or self._fetched(block)
        pending.wait()
        return flat

    def _fetched(self, block: nn.Module) -> tuple[nn.Module, Tensor, Pending]:
        if self._buffers is None:
            most = max(part.bytes.numel() for part in self._parts.values()) * self.group.size
            first = torch.empty(most, dtype=torch.uint8, device=self.device)
            self._buffers = first, torch.empty_like(first)
        self._turn = 1 - self._turn
        mine = self._parts[id(block)].bytes
        whole = self._buffers[self._turn][: mine.numel() * self.group.size]
        return block, whole, self.group.collect(mine, whole, WEIGHTS)


class ShardedDit:
    """The `Residency` of a transformer: the blocks, and their modulation layers apart from them.

    Attributes:
        blocks: brings what is not modulation.
        modulation: brings the modulation layers.
    """

    def __init__(self, blocks: ShardedBlocks, modulation: ShardedBlocks):
        self.blocks, self.modulation = blocks, modulation

    def walk(self, blocks: Sequence[Block]) -> Iterator[Block]:
        return self.blocks.walk(blocks)

    def walk_modulation(self, blocks: Sequence[Block]) -> Iterator[Block]:
        self.blocks.close()  # two buffers of each kind at a time would be two too many
        yield from self.modulation.walk(blocks)
        self.modulation.close()

    def close(self) -> None:
        """Give all buffers back."""
        self.blocks.close()
        self.modulation.close()

    @property
    def kept_bytes(self) -> int:
        """What this rank keeps."""
        return self.blocks.kept_bytes + self.modulation.kept_bytes


def part_bytes(nbytes: int, ranks: int) -> int:
    """How much each rank keeps of a block's flat buffer; the last one's end may be empty."""
    each = -(-nbytes // ranks)
    return -(-each // PART_ALIGNMENT) * PART_ALIGNMENT
