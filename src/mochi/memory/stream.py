"""Blocks that are on their device only while they compute.

`BlockStream.walk` yields the blocks of a network one after the other, each ready when its turn
comes: a thread brings the next one while this one computes. What that takes depends on where the
weights are kept and where they are needed:

- on the CPU, as they are stored: the file's pages are read ahead, and given back behind if wanted;
- on the CPU in another dtype: converted into one of two buffers, never the whole model;
- on another device: copied into one of two buffers there; for CUDA from pinned memory, on a stream
  of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from mochi.memory.cargo import Cargo, Deferred
from mochi.memory.pinned import PinnedBlocks
from mochi.memory.slots import CudaSlot, DeviceSlot, HostSlot, Slot
from mochi.model.residency import Block

Check = Callable[[Sequence[Tensor]], None]
"""Looks at the stored weights of a block before they are used for the first time."""


def nothing(name: str) -> bool:
    """No tensor is meant."""
    return False


@dataclass(frozen=True)
class Carriage:
    """How blocks are carried.

    Attributes:
        device: where they compute.
        dtype: what their plain weights become there; None keeps what is stored.
        drops_pages: give the pages of mapped files back behind each block.
        returns: the first block is wanted again after the last (the next step).
        stays: names inside a block of what is not carried.
        settles: names inside a block of what goes to the device once and stays there (adapters).
        deferred: what makes the values of parameters that are stand-ins, by their `id`.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    drops_pages: bool = True
    returns: bool = True
    stays: Callable[[str], bool] = nothing
    settles: Callable[[str], bool] = nothing
    deferred: Mapping[int, Deferred] = field(default_factory=dict)

    def cargo(self, block: nn.Module) -> Cargo:
        """What is carried of a block."""
        return Cargo.of(
            block, self.dtype, lambda it: self.stays(it) or self.settles(it), self.deferred
        )

    def settle(self, block: nn.Module) -> None:
        """Bring what stays on the device there, if it is not."""
        for item in Cargo.of(block, stays=lambda it: not self.settles(it)).items:
            if item.stored.device != self.device:
                item.put(item.stored.to(self.device))


class BlockStream:
    """Streams the blocks of one network.

    A block's weights are looked at anew each time, so one that was replaced or written to between
    two walks is used as it is then.
    """

    def __init__(
        self, carriage: Carriage, check: Check | None = None, kept: PinnedBlocks | None = None
    ):
        self.carriage = carriage
        self._check = check
        self._checked: set[int] = set()
        self._kept = kept or PinnedBlocks()
        self._slots: tuple[Slot, ...] = ()
        self._turn = 0
        self._worker: ThreadPoolExecutor | None = None
        self._ahead: _Coming | None = None

    def walk(self, blocks: Sequence[Block]) -> Iterator[Block]:
        """The blocks in their order, each ready to compute until the next one is asked for.

        Raises:
            Exception: what the check on first use raises, before the block is yielded.
        """
        again = [blocks[0] if len(blocks) and self.carriage.returns else None]
        for block, following in zip(blocks, chain(blocks[1:], again), strict=False):
            coming = self._taken(block)
            cargo, slot = coming.cargo, coming.slot
            coming.done.result()
            if following is not None:
                self._ahead = self._bring(following)
            slot.enter(cargo)
            try:
                yield block
            finally:
                slot.leave(cargo)

    def close(self) -> None:
        """Wait for what is under way and give buffers and thread back; a later walk is possible."""
        if self._ahead is not None:
            self._ahead.done.exception()
            self._ahead.slot.leave(self._ahead.cargo)
            self._ahead = None
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None
        for slot in self._slots:
            slot.close()
        self._slots = ()

    def _taken(self, block: nn.Module) -> _Coming:
        """What was brought ahead, if it is this block; else it is brought now."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if ahead.block is block:
                return ahead
            ahead.done.exception()
            ahead.slot.leave(ahead.cargo)
        return self._bring(block)

    def _bring(self, block: nn.Module) -> _Coming:
        self._slots = self._slots or self._new_slots()
        self._turn = (self._turn + 1) % len(self._slots)
        self._worker = self._worker or ThreadPoolExecutor(1, thread_name_prefix="weights")
        slot = self._slots[self._turn]
        self.carriage.settle(block)
        cargo = self.carriage.cargo(block)
        done = self._worker.submit(self._checked_then_brought, block, cargo, slot)
        return _Coming(block, cargo, slot, done)

    def _checked_then_brought(self, block: nn.Module, cargo: Cargo, slot: Slot) -> None:
        if self._check is not None and id(block) not in self._checked:
            self._check(cargo.stored)
            self._checked.add(id(block))
        slot.bring(cargo)

    def _new_slots(self) -> tuple[Slot, Slot]:
        device, drops = self.carriage.device, self.carriage.drops_pages
        if device.type == "cpu":
            return HostSlot(drops), HostSlot(drops)
        if device.type == "cuda":
            copies = torch.cuda.Stream(device)
            first = CudaSlot(device, copies, self._kept, drops)
            return first, CudaSlot(device, copies, self._kept, drops)
        return DeviceSlot(device, drops), DeviceSlot(device, drops)


@dataclass(frozen=True)
class _Coming:
    """A block on its way into a slot."""

    block: nn.Module
    cargo: Cargo
    slot: Slot
    done: Future[None]
