"""Where a pass need not run all blocks: the hook of step caches, lossy and off by default.

A network asks before its first block and after it; an answer stands in for the blocks that are
left. The passes of a step ask one by one, each about itself.
"""

# Shapes: B batch, N this device's visual tokens, D visual width.

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from mochi.model.context import TextContext


class Shortcut(Protocol):
    """Guesses the visual stream behind the last block. Tensors that it is given may be overwritten
    afterwards: what it wants to keep, it copies."""

    def before_first(
        self, context: TextContext, x_BND: Tensor, normed_BND: Tensor
    ) -> Tensor | None:
        """Asked with the embedded tokens and their modulated norm; None runs the first block."""
        ...

    def after_first(self, context: TextContext, x_BND: Tensor) -> Tensor | None:
        """Asked with what the first block made; None runs all others."""
        ...

    def computed(self, context: TextContext, x_BND: Tensor) -> None:
        """Told what the last block made, where all were run."""
        ...
