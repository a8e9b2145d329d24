"""Where a block lies while it computes: two places that take turns.

Each brings a block's weights (in the thread that reads ahead), lets the block have them, and takes
them back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from mochi.memory import pages
from mochi.memory.cargo import Cargo
from mochi.memory.pinned import PinnedBlocks, pinned_empty


class Slot(Protocol):
    """One of the places; it holds one block at a time."""

    def bring(self, cargo: Cargo) -> None:
        """Make the weights ready, or have them on their way; called in another thread."""
        ...

    def enter(self, cargo: Cargo) -> None:
        """Let the block compute with them."""
        ...

    def leave(self, cargo: Cargo) -> None:
        """Let the block have its stored weights back."""
        ...

    def close(self) -> None:
        """Wait until nothing is on its way any more: the buffers are about to go."""
        ...


@dataclass
class HostSlot:
    """For computing on the CPU: in place where the stored weights will do, else in a buffer.

    Attributes:
        drops: give the file's pages back as soon as they are not needed.
    """

    drops: bool
    _buffer: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))

    def bring(self, cargo: Cargo) -> None:
        """Read the file's pages ahead, or convert them."""
        if _computes_in_place(cargo):
            pages.fetch(cargo.stored)
            return
        if self._buffer.numel() < cargo.nbytes:
            self._buffer = torch.empty(0, dtype=torch.uint8)  # free the old one first
            self._buffer = torch.empty(cargo.nbytes, dtype=torch.uint8)
        cargo.fill(self._buffer, self.drops)

    def enter(self, cargo: Cargo) -> None:
        """Attach the buffer if there is one."""
        if not _computes_in_place(cargo):
            cargo.attach(self._buffer)

    def leave(self, cargo: Cargo) -> None:
        """Detach the buffer, or give the pages back."""
        cargo.detach()
        if self.drops and _computes_in_place(cargo):
            pages.drop(cargo.stored)

    def close(self) -> None:
        """Nothing is ever on its way."""


@dataclass
class CudaSlot:
    """For computing on a CUDA device: one copy from pinned memory, beside the computation.

    Attributes:
        device: where the buffer is.
        copies: the stream for copies.
        kept: blocks that lie in pinned memory already; others go through a buffer of the slot's.
        drops: give the file's pages back as soon as they are copied.
    """

    device: torch.device
    copies: torch.cuda.Stream
    kept: PinnedBlocks
    drops: bool
    _buffer: Tensor | None = None
    _staging: Tensor | None = None
    _arrived: torch.cuda.Event = field(default_factory=torch.cuda.Event)
    _left: torch.cuda.Event = field(default_factory=torch.cuda.Event)

    def bring(self, cargo: Cargo) -> None:
        """Start the copy; it waits for the block that computed here before."""
        source = self.kept.flat_of(cargo)
        if source is None:
            source = self._staged(cargo)
        if self._buffer is None or self._buffer.numel() < cargo.nbytes:
            self._left.synchronize()
            self._buffer = None
            self._buffer = torch.empty(cargo.nbytes, dtype=torch.uint8, device=self.device)
            # Whoever had this memory before may still be using it, in the order of its stream.
            self.copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.copies):
            self.copies.wait_event(self._left)
            self._buffer[: cargo.nbytes].copy_(source[: cargo.nbytes], non_blocking=True)
            self._arrived.record(self.copies)

    def enter(self, cargo: Cargo) -> None:
        """Let the computation wait for the copy, not the program."""
        assert self._buffer is not None
        torch.cuda.current_stream(self.device).wait_event(self._arrived)
        cargo.attach(self._buffer)

    def leave(self, cargo: Cargo) -> None:
        """The next copy into this slot may begin when what was computed here is done."""
        self._left.record(torch.cuda.current_stream(self.device))
        cargo.detach()

    def close(self) -> None:
        """Wait for the copy that is under way."""
        self._arrived.synchronize()

    def _staged(self, cargo: Cargo) -> Tensor:
        if self._staging is None or self._staging.numel() < cargo.nbytes:
            self._staging = pinned_empty(cargo.nbytes)
        self._arrived.synchronize()  # the copy before may still read from here
        cargo.fill(self._staging, self.drops)
        return self._staging


@dataclass
class DeviceSlot:
    """For any other device: a plain copy, in the turn of the program."""

    device: torch.device
    drops: bool
    _buffer: Tensor | None = None

    def bring(self, cargo: Cargo) -> None:
        """Copy the weights over."""
        if self._buffer is None or self._buffer.numel() < cargo.nbytes:
            self._buffer = None
            self._buffer = torch.empty(cargo.nbytes, dtype=torch.uint8, device=self.device)
        cargo.fill(self._buffer, self.drops)

    def enter(self, cargo: Cargo) -> None:
        """Attach the buffer."""
        assert self._buffer is not None
        cargo.attach(self._buffer)

    def leave(self, cargo: Cargo) -> None:
        """Detach the buffer."""
        cargo.detach()

    def close(self) -> None:
        """Nothing is ever on its way."""


def _computes_in_place(cargo: Cargo) -> bool:
    return cargo.is_ready_on(torch.device("cpu"))
