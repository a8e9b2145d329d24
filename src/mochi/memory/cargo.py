"""The weights of one block as one flat buffer: what is carried to a device and back.

A block keeps its weights where they are stored (a mapped file, pinned memory). While it computes,
views of a flat buffer stand in for them, of another dtype or on another device if need be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from mochi.memory import pages

ALIGNMENT = 256
"""Bytes; what CUDA's matrix kernels like best."""


class Deferred(Protocol):
    """A weight that is put together from several tensors of a file each time it is needed."""

    def read(self) -> Tensor:
        """The weight, in memory of its own."""
        ...

    def sources(self) -> Sequence[Tensor]:
        """The mapped tensors that it is made from."""
        ...


_CASTABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Item:
    """One tensor of a block: where it hangs, what is stored, and its place in the buffer.

    Attributes:
        stored: what the block has; a stand-in where `deferred` makes the values.
    """

    owner: nn.Module
    name: str
    stored: Tensor
    dtype: torch.dtype
    offset: int
    deferred: Deferred | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in the buffer, which are not those of the stored tensor if its dtype changes."""
        return self.stored.numel() * self.dtype.itemsize

    def view(self, flat: Tensor) -> Tensor:
        """The tensor inside a buffer, uint8, of the whole cargo."""
        raw = flat[self.offset : self.offset + self.nbytes]
        return raw.view(self.dtype).view(self.stored.shape)

    def copy_to(self, target: Tensor, drops_pages: bool) -> None:
        """Copy the values into a tensor of this shape, converting on the way.

        Args:
            target: on any device.
            drops_pages: give the pages of mapped files back.
        """
        pages.fetch(self.mapped)
        target.copy_(self.stored if self.deferred is None else self.deferred.read())
        if drops_pages:
            pages.drop(self.mapped)

    def copy_part_to(self, target: Tensor, start: int, drops_pages: bool) -> None:
        """Copy the values from a byte of the buffer's form on, as many as the target takes.

        Args:
            target: uint8, flat; whole values.
            start: counted from this tensor's first byte.
            drops_pages: give the pages of mapped files back.
        """
        first, count = start // self.dtype.itemsize, target.numel() // self.dtype.itemsize
        values = self.stored if self.deferred is None else self.deferred.read()
        some = values.reshape(-1)[first : first + count]
        target.view(self.dtype).copy_(some)
        if drops_pages:
            pages.drop([some] if self.deferred is None else self.mapped)

    @property
    def mapped(self) -> Sequence[Tensor]:
        """The tensors of a file, if it is one, that its values come from."""
        return [self.stored] if self.deferred is None else self.deferred.sources()

    def put(self, tensor: Tensor) -> None:
        """Hang another tensor in the stored one's place."""
        if self.name in self.owner._parameters:
            if not isinstance(tensor, nn.Parameter):
                tensor = nn.Parameter(tensor, requires_grad=False)
            self.owner._parameters[self.name] = tensor
        else:
            self.owner._buffers[self.name] = tensor


@dataclass(frozen=True)
class Cargo:
    """The tensors of one block, laid out one behind the other."""

    items: tuple[Item, ...]

    @classmethod
    def of(
        cls,
        block: nn.Module,
        dtype: torch.dtype | None = None,
        stays: Callable[[str], bool] = lambda name: False,
        deferred: Mapping[int, Deferred] | None = None,
    ) -> Cargo:
        """What `block` holds now.

        Args:
            block: its weights are not touched.
            dtype: parameters that are plain floats become this; None keeps what is stored. Buffers
                (the parts of quantised weights) are never cast.
            stays: names, as in `named_parameters`, of tensors that are not carried.
            deferred: what makes the values of parameters that are stand-ins, by their `id`.
        """
        items, offset = [], 0
        for name, owner, key, tensor in _tensors(block):
            if stays(name):
                continue
            is_plain = key in owner._parameters and tensor.dtype in _CASTABLE
            becomes = dtype if dtype is not None and is_plain else tensor.dtype
            made_by = deferred.get(id(tensor)) if deferred else None
            items.append(Item(owner, key, tensor, becomes, offset, made_by))
            offset = _aligned(offset + items[-1].nbytes)
        return cls(tuple(items))

    @cached_property
    def nbytes(self) -> int:
        """Size of the flat buffer."""
        return _aligned(self.items[-1].offset + self.items[-1].nbytes) if self.items else 0

    @property
    def stored(self) -> list[Tensor]:
        """The tensors as they are kept."""
        return [item.stored for item in self.items]

    def is_ready_on(self, device: torch.device) -> bool:
        """Whether the block can compute with its stored tensors as they are."""
        return all(
            item.deferred is None
            and item.stored.dtype == item.dtype
            and item.stored.device == device
            for item in self.items
        )

    def fill(self, flat: Tensor, drops_pages: bool = False) -> None:
        """Copy the stored tensors into a buffer, converting on the way.

        Args:
            flat: uint8, at least `nbytes` long, on any device.
            drops_pages: give the pages of mapped files back, one tensor after the other.
        """
        for item in self.items:
            item.copy_to(item.view(flat), drops_pages)

    def fill_part(self, part: Tensor, start: int, drops_pages: bool = False) -> None:
        """Copy what lies in a part of the buffer, and read nothing else of a mapped file.

        Args:
            part: uint8, on any device; behind the last tensor it stays as it is.
            start: its first byte's place in the buffer, a multiple of `ALIGNMENT`.
            drops_pages: as for `fill`.
        """
        assert start % ALIGNMENT == 0
        stop = start + part.numel()
        for item in self.items:
            a, b = max(start, item.offset), min(stop, item.offset + item.nbytes)
            if a < b:
                item.copy_part_to(part[a - start : b - start], a - item.offset, drops_pages)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The tensors as they lie in a buffer."""
        return [item.view(flat) for item in self.items]

    def move_to(self, device: torch.device) -> None:
        """Let the block have tensors of its own on a device, one after the other, for good."""
        for item in self.items:
            moved = torch.empty(item.stored.shape, dtype=item.dtype, device=device)
            item.copy_to(moved, drops_pages=True)
            item.put(moved)

    def attach(self, flat: Tensor) -> None:
        """Let the block compute with what is in a buffer."""
        for item in self.items:
            item.put(item.view(flat))

    def detach(self) -> None:
        """Let the block have its stored tensors back."""
        for item in self.items:
            item.put(item.stored)


def _tensors(block: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Name in the block, owner, name in the owner, and the tensor: parameters and buffers."""
    for prefix, owner in block.named_modules():
        for held in (owner._parameters, owner._buffers):
            for key, tensor in held.items():
                if tensor is not None:
                    yield f"{prefix}.{key}" if prefix else key, owner, key, tensor


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
