"""The processes of a run, and the groups that they form.

Nothing here is global: a world is a key-value store that all its ranks reach and a number for each.
Two worlds may live in one process, and torch's default process group is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store

from mochi.core.errors import RankError
from mochi.parallel.pulse import Pulse

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for another inside an operation; a dead one is noticed long before."""


class Carrier(Protocol):
    """What torch's backends have in common, as far as it is used here."""

    def alltoall_base(
        self, output: Tensor, input: Tensor, output_sizes: list[int], input_sizes: list[int]
    ) -> dist.Work: ...

    def _allgather_base(self, output: Tensor, input: Tensor) -> dist.Work: ...

    def send(self, tensors: list[Tensor], place: int, tag: int) -> dist.Work: ...

    def recv(self, tensors: list[Tensor], place: int, tag: int) -> dist.Work: ...

    def _start_coalescing(self, device: torch.device) -> None: ...

    def _end_coalescing(self, device: torch.device) -> dist.Work: ...


_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@dataclass(frozen=True)
class World:
    """This process among the others of a run.

    Attributes:
        store: reached by all ranks; used by this run alone.
        rank: this process's number.
        size: how many there are.
        device: where its tensors are.
        patience: see `PATIENCE`.
        address: where other ranks reach this one; None is what the system says.
        pulse: kept up to date by all exchanges.
    """

    store: Store
    rank: int
    size: int
    device: torch.device
    patience: timedelta = PATIENCE
    address: str | None = None
    pulse: Pulse = field(default_factory=Pulse)

    @property
    def backend(self) -> str:
        """What carries the bytes between such devices."""
        return _BACKENDS[self.device.type]

    def connect(self, ranks: Sequence[int], name: str) -> Carrier:
        """Join a group; every one of its ranks calls this with the same ranks and name.

        Raises:
            RankError: one of them cannot be reached.
        """
        store = PrefixStore(f"{name}:{','.join(map(str, ranks))}", self.store)
        place = list(ranks).index(self.rank)
        try:
            return self._carrier(store, place, len(ranks))
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            others = ", ".join(str(rank) for rank in ranks if rank != self.rank)
            raise RankError(
                f"rank {self.rank} cannot reach the ranks {others} at {self.address or 'its host'} "
                f"(a firewall, or the wrong network?): {first}",
                self.rank,
            ) from error

    def _carrier(self, store: Store, place: int, size: int) -> Carrier:
        if self.backend == "nccl":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = self.patience
            return cast(Carrier, dist.ProcessGroupNCCL(store, place, size, options))
        gloo: Any = dist.ProcessGroupGloo  # its stubs do not know its options
        how: Any = self.patience
        if self.address is not None:
            how = gloo._Options()
            how._timeout = self.patience
            how._devices = [gloo.create_device(hostname=self.address)]
        carrier = gloo(store, place, size, how)
        # Nobody leaves before all have come: a rank that has no use for the group lets go of it at
        # once, and would close it in the face of slower ones.
        carrier.barrier().wait()
        return cast(Carrier, carrier)
