"""What all ranks have to know alike: a prompt's features, whether somebody asked to stop."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch

from mochi.core.events import CancelToken
from mochi.parallel.group import Group

PURPOSE = "agreement"


def from_first(group: Group, make: Callable[[], dict[str, Any]], device: torch.device) -> Any:
    """What the group's first rank makes, on every rank; the others only wait for it.

    Args:
        group: all of its ranks call this.
        make: gives tensors and plain values by name.
        device: where bytes of this group travel.
    """
    if group.size == 1:
        return make()
    if group.place == 0:
        made = make()
        stream = io.BytesIO()
        torch.save(made, stream)
        content = torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8).to(device)
        length = torch.tensor([len(content)], device=device)
        for place in range(1, group.size):
            group.send(length, place, PURPOSE).wait()
            group.send(content, place, PURPOSE).wait()
        return made
    length = group.receive(0, (1,), torch.int64, device)
    content = group.receive(0, (int(length),), torch.uint8, device)
    return torch.load(io.BytesIO(content.cpu().numpy().tobytes()), weights_only=True)


class AgreedCancel(CancelToken):
    """A token that stops all ranks of a group at the same place.

    `check` raises only where all have agreed before: a rank that stops alone would leave the others
    waiting for it.

    Args:
        asked: what the user holds; that of any rank will do.
        group: all ranks.
        device: where bytes of this group travel.
    """

    def __init__(self, asked: CancelToken, group: Group, device: torch.device):
        super().__init__()
        self.asked = asked
        self._group, self._device = group, device

    def agree(self) -> None:
        """Every rank calls this at the same place.

        Raises:
            Cancelled: on all of them, if somebody asked one of them.
        """
        mine = torch.tensor([self.asked.cancelled], dtype=torch.uint8, device=self._device)
        every = self._group.share(mine, [(1,)] * self._group.size, PURPOSE)
        with self._group.pulse.exchange():  # on a GPU, this is where a rank waits for the others
            asked = bool(torch.cat(every).any())
        if asked:
            self.cancel()
        self.check()
