"""Ranks that talk with each other, and the count of what they send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from mochi.parallel.pulse import Pulse
from mochi.parallel.world import World

Shape = tuple[int, ...]


@dataclass
class Traffic:
    """Bytes that this rank sent, by what they were for."""

    sent: dict[str, int] = field(default_factory=dict)

    def add(self, purpose: str, size: int) -> None:
        """Count `size` bytes."""
        if size:
            self.sent[purpose] = self.sent.get(purpose, 0) + size

    @property
    def total(self) -> int:
        """All bytes sent."""
        return sum(self.sent.values())

    def reset(self) -> None:
        """Count from zero."""
        self.sent.clear()


class Pending:
    """Tensors on their way; `wait` returns them when they are here."""

    def __init__(
        self,
        works: Sequence[dist.Work | None],
        received: Sequence[Tensor],
        held: object,
        pulse: Pulse | None = None,
    ):
        self._works, self._received = works, list(received)
        self._held = held  # what is being sent must live until it is sent
        self._pulse = pulse or Pulse()

    def wait(self) -> list[Tensor]:
        """The received tensors.

        Raises:
            PeerLostError: another rank has gone.
        """
        for work in self._works:
            if work is not None:
                with self._pulse.exchange():
                    work.wait()
        self._works, self._held = (), None
        return self._received


class Group:
    """Some ranks of a world, in order. All of them make the same calls in the same order.

    Attributes:
        ranks: their numbers in the world.
        place: this rank's place among them.
        traffic: counts what this rank sends to others.
        pulse: of this process.
    """

    def __init__(self, ranks: Sequence[int], world: World, name: str, traffic: Traffic):
        self.ranks = tuple(ranks)
        self.place = self.ranks.index(world.rank)
        self.traffic = traffic
        self._handle = world.connect(self.ranks, name) if len(self.ranks) > 1 else None
        self.pulse = world.pulse

    @property
    def size(self) -> int:
        """How many ranks."""
        return len(self.ranks)

    def swap(self, parts: Sequence[Tensor], shapes: Sequence[Shape], purpose: str) -> Pending:
        """Give `parts[i]` to rank i and get a tensor of `shapes[i]` from it, of the same dtype.

        Bytes travel as they are, so any dtype does, and parts may differ in size.
        """
        if self.size == 1:
            return Pending((), list(parts), None)
        dtype, device = parts[0].dtype, parts[0].device
        flat = torch.cat([part.reshape(-1).view(torch.uint8) for part in parts])
        counts_in = [part.numel() * dtype.itemsize for part in parts]
        counts_out = [prod(shape) * dtype.itemsize for shape in shapes]
        buffer = torch.empty(sum(counts_out), dtype=torch.uint8, device=device)
        self.traffic.add(purpose, sum(counts_in) - counts_in[self.place])
        assert self._handle is not None
        with self.pulse.exchange():
            work = self._handle.alltoall_base(buffer, flat, counts_out, counts_in)
        pieces = buffer.split(counts_out)
        received = [
            piece.view(dtype).view(shape) for piece, shape in zip(pieces, shapes, strict=True)
        ]
        return Pending([work], received, flat, self.pulse)

    def share(self, tensor: Tensor, shapes: Sequence[Shape], purpose: str) -> list[Tensor]:
        """Everyone's tensor, in the order of the ranks; rank i's is of `shapes[i]`."""
        return self.swap([tensor] * self.size, shapes, purpose).wait()

    def collect(self, mine: Tensor, whole: Tensor, purpose: str) -> Pending:
        """Everyone's tensor of one size, behind each other in `whole`; both flat and of bytes."""
        assert whole.numel() == self.size * mine.numel()
        if self.size == 1 or not mine.numel():
            return Pending((), [whole.copy_(mine)], None)
        self.traffic.add(purpose, (self.size - 1) * mine.nbytes)
        assert self._handle is not None
        with self.pulse.exchange():
            work = self._handle._allgather_base(whole, mine)
        return Pending([work], [whole], mine, self.pulse)

    def shift(self, tensor: Tensor, shape: Shape, purpose: str) -> Pending:
        """Send a tensor to the next rank, the last to the first; get one of `shape` from the
        rank before."""
        if self.size == 1:
            return Pending((), [tensor], None)
        tensor = tensor.contiguous()
        buffer = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
        self.traffic.add(purpose, tensor.nbytes)
        following, before = (self.place + 1) % self.size, (self.place - 1) % self.size
        with self.pulse.exchange():
            works = self._together(tensor, following, buffer, before)
        return Pending(works, [buffer], tensor, self.pulse)

    def send(self, tensor: Tensor, place: int, purpose: str) -> Pending:
        """Send a tensor to one rank of the group, without waiting for it."""
        assert self._handle is not None
        tensor = tensor.contiguous()
        self.traffic.add(purpose, tensor.nbytes)
        with self.pulse.exchange():
            work = self._handle.send([tensor], place, 0)
        return Pending([work], [], tensor, self.pulse)

    def expect(self, place: int, shape: Shape, dtype: torch.dtype, device: torch.device) -> Pending:
        """The tensor that a rank of the group sends here, without waiting for it. What is expected
        first of a rank is what it sends first."""
        assert self._handle is not None
        buffer = torch.empty(shape, dtype=dtype, device=device)
        with self.pulse.exchange():
            work = self._handle.recv([buffer], place, 0)
        return Pending([work], [buffer], None, self.pulse)

    def receive(self, place: int, shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The tensor that a rank of the group sent here."""
        return self.expect(place, shape, dtype, device).wait()[0]

    def _together(self, out: Tensor, to: int, into: Tensor, origin: int) -> list[dist.Work]:
        """A send and a receive that need each other: NCCL has to be told so."""
        assert self._handle is not None
        if out.device.type == "cuda":
            self._handle._start_coalescing(out.device)
            self._handle.send([out], to, 0)
            self._handle.recv([into], origin, 0)
            return [self._handle._end_coalescing(out.device)]
        return [self._handle.send([out], to, 0), self._handle.recv([into], origin, 0)]
