"""What may happen to a tensor between two layouts. Each goes both ways, for shapes and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Op(Protocol):
    """One tensor of ours <-> one or more of theirs. Backwards undoes forwards, bit for bit."""

    def split_shape(self, shape: Shape, parts: int) -> list[Shape]:
        """Shapes of theirs, from ours."""
        ...

    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of ours, from theirs (which may be wrong: the result is for comparison)."""
        ...

    def split(self, tensor: Tensor, parts: int) -> list[Tensor]:
        """Theirs, from ours."""
        ...

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Ours, from theirs."""
        ...


class Stack:
    """Ours is theirs one after another along the outputs; a single part is a plain rename."""

    def split_shape(self, shape: Shape, parts: int) -> list[Shape]:
        """Equal shares of dimension 0."""
        return [shape] if parts == 1 else [(shape[0] // parts, *shape[1:])] * parts

    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        """The sum over dimension 0."""
        first = shapes[0]
        return first if len(shapes) == 1 else (sum(s[0] for s in shapes), *first[1:])

    def split(self, tensor: Tensor, parts: int) -> list[Tensor]:
        """Views, no copies."""
        return list(tensor.chunk(parts)) if parts > 1 else [tensor]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """The tensor itself where there is one, else a copy."""
        return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


class SwapHalves:
    """The two halves of dimension 0 change places: gate and value, or shift and scale."""

    def split_shape(self, shape: Shape, parts: int) -> list[Shape]:
        """Unchanged."""
        return [shape]

    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        """Unchanged."""
        return shapes[0]

    def split(self, tensor: Tensor, parts: int) -> list[Tensor]:
        """A copy with its halves swapped."""
        return [self.join([tensor])]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """A copy with its halves swapped; done twice it is the original."""
        first, second = tensors[0].chunk(2)
        return torch.cat([second, first])


STACK = Stack()
SWAP_HALVES = SwapHalves()
