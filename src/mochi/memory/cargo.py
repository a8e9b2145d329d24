"""The weights of one block as one flat buffer: what is carried to a device and back.

A block keeps its weights where they are stored (a mapped file, pinned memory). While it computes,
views of a flat buffer stand in for them, of another dtype or on another device if need be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from mochi.memory import pages

ALIGNMENT = 256
"""Bytes; what CUDA's matrix kernels like best."""

_CASTABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Item:
    """One tensor of a block: where it hangs, what is stored, and its place in the buffer."""

    owner: nn.Module
    name: str
    stored: Tensor
    dtype: torch.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes in the buffer, which are not those of the stored tensor if its dtype changes."""
        return self.stored.numel() * self.dtype.itemsize

    def view(self, flat: Tensor) -> Tensor:
        """The tensor inside a buffer, uint8, of the whole cargo."""
        raw = flat[self.offset : self.offset + self.nbytes]
        return raw.view(self.dtype).view(self.stored.shape)

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
    ) -> Cargo:
        """What `block` holds now.

        Args:
            block: its weights are not touched.
            dtype: parameters that are plain floats become this; None keeps what is stored. Buffers
                (the parts of quantised weights) are never cast.
            stays: names, as in `named_parameters`, of tensors that are not carried.
        """
        items, offset = [], 0
        for name, owner, key, tensor in _tensors(block):
            if stays(name):
                continue
            cast = dtype is not None and key in owner._parameters and tensor.dtype in _CASTABLE
            items.append(
                Item(owner, key, tensor, dtype if cast and dtype else tensor.dtype, offset)
            )
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
            item.stored.dtype == item.dtype and item.stored.device == device for item in self.items
        )

    def fill(self, flat: Tensor, drops_pages: bool = False) -> None:
        """Copy the stored tensors into a buffer, converting on the way.

        Args:
            flat: uint8, at least `nbytes` long, on any device.
            drops_pages: give the pages of mapped files back, one tensor after the other.
        """
        for item in self.items:
            pages.fetch([item.stored])
            item.view(flat).copy_(item.stored)
            if drops_pages:
                pages.drop([item.stored])

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
