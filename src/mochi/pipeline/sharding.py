"""The weights of a transformer spread over the ranks of a run, in their stored dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mochi.memory.cargo import Cargo, Deferred
from mochi.memory.residency import is_adapter, is_modulation
from mochi.memory.stream import Carriage, Check
from mochi.parallel.group import Group
from mochi.parallel.sharded import ShardedBlocks, ShardedDit


@dataclass(frozen=True)
class WeightShards:
    """Who keeps the weights together.

    Attributes:
        group: the ranks, in a group that is used for nothing else.
        overlap: whether weights travel while others are used.
    """

    group: Group
    overlap: bool = True

    def dit(
        self,
        blocks: Sequence[nn.Module],
        device: torch.device,
        dtype: torch.dtype | None,
        *,
        deferred: Mapping[int, Deferred],
        check: Check,
    ) -> ShardedDit:
        """Let a transformer's blocks, which lie in a mapped file, compute with the weights of all
        ranks; each rank reads its own part here.

        Args:
            blocks: their weights unread.
            device: where they compute.
            dtype: what their plain weights become when they are used; None keeps what is stored.
            deferred: of weights that are put together when they are used, by `id`.
            check: looks at weights before they are used for the first time.
        """
        settling = Carriage(device, dtype, settles=is_adapter)

        def sharded(stays: Callable[[str], bool], returns: bool) -> ShardedBlocks:
            made = ShardedBlocks(
                lambda block: StoredLoad.of(block, dtype, stays, deferred),
                self.group,
                device,
                returns=returns,
                overlap=self.overlap,
                check=check,
                prepare=settling.settle,
            )
            made.keep(blocks)
            return made

        main = sharded(lambda name: is_modulation(name) or is_adapter(name), returns=True)
        return ShardedDit(main, sharded(lambda name: not is_modulation(name), returns=False))


@dataclass(frozen=True)
class StoredLoad:
    """A block's weights that travel as they are stored, and are converted when they are used.

    Attributes:
        cargo: the weights, not converted.
        used: the same, as they are used.
    """

    cargo: Cargo
    used: Cargo

    @classmethod
    def of(
        cls,
        block: nn.Module,
        dtype: torch.dtype | None,
        stays: Callable[[str], bool] = lambda name: False,
        deferred: Mapping[int, Deferred] | None = None,
    ) -> StoredLoad:
        """Arguments as for `Cargo.of`."""
        return cls(Cargo.of(block, None, stays, deferred), Cargo.of(block, dtype, stays, deferred))

    @property
    def nbytes(self) -> int:
        """Size of the buffer."""
        return self.cargo.nbytes

    def fill_part(self, part: Tensor, start: int, drops_pages: bool = False) -> None:
        """Copy what lies in a part of the buffer, and read nothing else."""
        self.cargo.fill_part(part, start, drops_pages)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The tensors as they lie in a buffer."""
        return self.cargo.views(flat)

    def attach(self, flat: Tensor) -> None:
        """Let the block compute with what is in a buffer."""
        for item, used in zip(self.cargo.items, self.used.items, strict=True):
            item.put(item.view(flat).to(used.dtype))

    def detach(self) -> None:
        """Let the block have what it had before."""
        self.cargo.detach()
