"""Memory of the host that a CUDA device copies from by itself."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from mochi.memory.cargo import Cargo


def pinned_empty(nbytes: int) -> Tensor:
    """A pinned uint8 buffer of just this size.

    PyTorch's own pinned memory comes in powers of two, which would be 512 MB for a block of 302.
    """
    flat = torch.empty(nbytes, dtype=torch.uint8)
    runtime = torch.cuda.cudart()
    if int(runtime.cudaHostRegister(flat.data_ptr(), nbytes, 0)) != 0:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    weakref.finalize(flat.untyped_storage(), runtime.cudaHostUnregister, flat.data_ptr())
    return flat


class PinnedBlocks:
    """Blocks whose weights were moved into pinned memory, one flat buffer each.

    The blocks' own tensors are views of these buffers afterwards, so that the file is not needed
    any more, and what is written to them arrives with the next copy.
    """

    def __init__(self, empty: Callable[[int], Tensor] = pinned_empty):
        self._empty = empty
        self._flats: dict[int, Tensor] = {}

    def keep(self, cargo: Cargo) -> None:
        """Move one block's weights, converting them on the way, and let the file go behind."""
        if not cargo.items:
            return
        flat = self._empty(cargo.nbytes)
        cargo.fill(flat, drops_pages=True)
        cargo.attach(flat)
        self._flats[flat.data_ptr()] = flat

    def flat_of(self, cargo: Cargo) -> Tensor | None:
        """The buffer in which all of a cargo lies as it would be laid out; None where it is not."""
        if not cargo.items:
            return None
        flat = self._flats.get(cargo.items[0].stored.data_ptr())
        if flat is None:
            return None
        start = flat.data_ptr()
        in_place = all(
            item.stored.dtype == item.dtype and item.stored.data_ptr() == start + item.offset
            for item in cargo.items
        )
        return flat if in_place else None

    @property
    def nbytes(self) -> int:
        """Pinned bytes."""
        return sum(flat.numel() for flat in self._flats.values())
