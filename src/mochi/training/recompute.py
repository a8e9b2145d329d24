"""Activation checkpointing: blocks that keep only what they were given, and compute again on the
way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mochi.core.errors import RequestError
from mochi.model.residency import Block, Resident


class Recomputed:
    """A block that computes twice; to the network it is the block."""

    def __init__(self, block: nn.Module):
        self._block: Any = block

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def __call__(self, streams: Any, factors: Any, following: Any, means: Any) -> Any:
        # Made here, by the first block, they would be made once on the way there and not again on
        # the way back, which the checkpoint takes for a mistake.
        _ = means.rotary.cos_sin
        return checkpoint(self._block, streams, factors, following, means, use_reentrant=False)


class Recomputing(Resident):
    """A network whose first blocks compute twice; where nothing is recorded, once.

    Args:
        count: how many.
    """

    def __init__(self, count: int):
        self.count = count

    def walk(self, blocks: Sequence[Block]) -> Iterator[Block]:
        for index, block in enumerate(blocks):
            twice = torch.is_grad_enabled() and index < self.count
            yield Recomputed(block) if twice else block  # type: ignore[misc]


def checkpointed(asked: int | str, depth: int) -> int:
    """How many blocks compute twice.

    Raises:
        RequestError: there are not so many.
    """
    if isinstance(asked, str):
        return depth
    if asked > depth:
        rule = f"is more than the model's {depth} blocks"
        raise RequestError("training.checkpointed_blocks", asked, rule, depth)
    return asked
