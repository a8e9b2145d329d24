"""The transformer's weights in each mode: what is in place, and what passes by.

The modulation layers are a stream of their own: their 27 % of the weights are needed once before
a run, and are not on the device while it lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from mochi.memory.cargo import Deferred
from mochi.memory.modes import Mode
from mochi.memory.pinned import PinnedBlocks
from mochi.memory.stream import BlockStream, Carriage, Check
from mochi.model.residency import Block

_MODULATION = ("mod_x.", "mod_y.")
_ADAPTER = ".deltas."


class Streamed:
    """A `Residency` whose blocks, or whose modulation layers alone, pass by.

    Attributes:
        blocks: brings what is not modulation; None where that is in place.
        modulation: brings the modulation layers.
    """

    def __init__(self, blocks: BlockStream | None, modulation: BlockStream):
        self.blocks = blocks
        self.modulation = modulation

    def walk(self, blocks: Sequence[Block]) -> Iterator[Block]:
        return iter(blocks) if self.blocks is None else self.blocks.walk(blocks)

    def walk_modulation(self, blocks: Sequence[Block]) -> Iterator[Block]:
        if self.blocks is not None:
            self.blocks.close()  # two slots of each kind at a time would be two too many
        yield from self.modulation.walk(blocks)
        self.modulation.close()

    def close(self) -> None:
        """Give all buffers back."""
        self.modulation.close()
        if self.blocks is not None:
            self.blocks.close()


def stream_blocks(
    blocks: Sequence[nn.Module],
    mode: Mode,
    device: torch.device,
    dtype: torch.dtype | None,
    *,
    deferred: Mapping[int, Deferred],
    check: Check,
) -> Streamed:
    """Arrange for a transformer's blocks, which lie in a mapped file, to compute on a device.

    Args:
        blocks: their weights unread.
        mode: any but `high`.
        device: where they compute.
        dtype: what their plain weights become; None keeps what is stored.
        deferred: of weights that are put together when they are used, by `id`.
        check: looks at weights before they are used for the first time.
    """
    drops = mode == "minimal" or device.type != "cpu"
    main = Carriage(
        device,
        dtype,
        drops_pages=drops,
        stays=is_modulation,
        settles=is_adapter,
        deferred=deferred,
    )
    modulation = Carriage(
        device,
        dtype,
        drops_pages=True,
        returns=False,
        stays=lambda name: not is_modulation(name),
        deferred=deferred,
    )
    once = BlockStream(modulation, check)
    if mode == "balanced":
        _move_in(blocks, main, check)
        return Streamed(None, once)
    kept = PinnedBlocks()
    if mode == "low" and device.type == "cuda":
        for block in blocks:
            cargo = main.cargo(block)
            check(cargo.stored)
            kept.keep(cargo)
    return Streamed(BlockStream(main, check, kept), once)


def _move_in(blocks: Sequence[nn.Module], carriage: Carriage, check: Check) -> None:
    for block in blocks:
        carriage.settle(block)
        cargo = carriage.cargo(block)
        check(cargo.stored)
        if not cargo.is_ready_on(carriage.device):
            cargo.move_to(carriage.device)


def is_modulation(name: str) -> bool:
    """Whether a tensor of a block belongs to its modulation layers."""
    return name.startswith(_MODULATION)


def is_adapter(name: str) -> bool:
    """Whether a tensor of a block is an adapter's, which stays on the device."""
    return _ADAPTER in name and not is_modulation(name)
