"""The processes of one training: which clips each takes, and what they add up.

Devices stand in a rectangle: those of a row share the tokens of the same clips (context), rows take
different clips (data). A gradient on a device is its own part of the whole in both directions, so
one sum over all devices makes it whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from mochi.core.errors import RequestError
from mochi.parallel.group import Group, Traffic
from mochi.parallel.mesh import Mesh
from mochi.parallel.scheme import Scheme
from mochi.parallel.shares import shares, spans
from mochi.parallel.sums import sum_in_place
from mochi.parallel.world import World
from mochi.training.sharded import ShardedBase

if TYPE_CHECKING:
    from mochi.model.dit import AsymmDiT

GRADIENTS, FIGURES = "gradients", "figures"


class Team:
    """This process among the others; without a world it is alone.

    Args:
        world: all processes; None for one.
        context: how many share a clip.

    Raises:
        RequestError: the devices do not make whole rows of `context`.
    """

    def __init__(self, world: World | None = None, context: int = 1):
        size = 1 if world is None else world.size
        if size % context:
            rule = f"does not divide the {size} devices that there are"
            nearest = max(n for n in range(1, size + 1) if size % n == 0 and n <= context)
            raise RequestError("training.context", context, rule, nearest)
        self.size, self.context = size, context
        self.rank = 0 if world is None else world.rank
        self.data_size = size // context
        self.data_place, self.context_place = divmod(self.rank, context)
        self.traffic = Traffic()
        self.is_sharded = False
        self._world = world
        self._everyone = (
            None if world is None else Group(range(size), world, "training", self.traffic)
        )

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    @property
    def counts(self) -> bool:
        """Whether figures of this process's clips are counted: once for each row of devices."""
        return self.context_place == 0

    def share(self, rows: int) -> range:
        """Which rows of a batch this process computes."""
        mine = spans(shares(rows, self.data_size))[self.data_place]
        return range(mine.start, mine.stop)

    def install(self, dit: AsymmDiT) -> None:
        """Let a network compute its share of the tokens."""
        if self.context == 1 or self._world is None:
            return
        store = PrefixStore(f"row{self.data_place}", self._world.store)
        row = replace(self._world, store=store, rank=self.context_place, size=self.context)
        Mesh.join(context_scheme(self.context, dit.config.heads), row).install(dit)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Around what one process does while the others wait for it, however long that takes."""
        if self._world is None:
            yield
            return
        self._world.pulse.busy = False
        try:
            yield
        finally:
            self._world.pulse.busy = True

    def shard(self, dit: AsymmDiT) -> None:
        """Let each device keep a part of a network's frozen blocks; they compute twice.

        Raises:
            RequestError: there is one device.
        """
        if self._world is None or self.size == 1:
            rule = "needs several devices to keep the parts"
            raise RequestError("training.shard", True, rule, "--devices 2")
        self.is_sharded = True
        group = Group(range(self.size), self._world, "weights", self.traffic)
        dit.residency = ShardedBase(list(dit.blocks), group, self._world.device)

    def most(self, count: int) -> int:
        """The largest of everyone's counts, where the base is in parts; else one's own. All devices
        walk through such a base equally often, since none has the weights alone."""
        if not self.is_sharded or self._everyone is None or self._world is None:
            return count
        counts = torch.zeros(self.size, device=self._world.device)
        counts[self.rank] = count
        sum_in_place([counts], self._everyone, FIGURES)
        return int(counts.max())

    def sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Each becomes its sum over all processes."""
        if self._everyone is not None:
            sum_in_place(gradients, self._everyone, GRADIENTS)

    def anywhere(self, flags: Sequence[bool]) -> list[bool]:
        """Which of some things are so on any process."""
        if self._everyone is None or self._world is None:
            return list(flags)
        total = torch.tensor(flags, dtype=torch.float32, device=self._world.device)
        sum_in_place([total], self._everyone, FIGURES)
        return [count > 0 for count in total.tolist()]

    def sum_figures(self, figures: Tensor) -> Tensor:
        """Sum over all processes of what each counts, on the CPU in float64."""
        figures = figures.detach().double().cpu()
        if self._everyone is None:
            return figures
        place = figures if self._world is None else figures.to(self._world.device)
        total = place.clone() if self.counts else torch.zeros_like(place)
        sum_in_place([total], self._everyone, FIGURES)
        return total.cpu()


def context_scheme(devices: int, heads: int) -> Scheme:
    """As many devices as divide the heads exchange heads for tokens; a ring takes the rest."""
    ulysses = max(u for u in range(1, devices + 1) if devices % u == 0 and heads % u == 0)
    return Scheme(1, ulysses, devices // ulysses)
