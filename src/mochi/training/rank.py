"""A rank of a training: one of several processes that train together, started by `many`.

It is told `start`, says `event`s, if it is the first, and `done` or `failed` in the end, and every
second a `beat`. When its supervisor goes, it goes too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import PrefixStore

from mochi.core.errors import Cancelled
from mochi.core.events import CancelToken
from mochi.parallel.channel import Failure
from mochi.parallel.meeting import Meeting
from mochi.parallel.pulse import Pulse
from mochi.parallel.supervised import Say, keep_beating, supervised
from mochi.parallel.world import World
from mochi.training.config import Config
from mochi.training.events import TrainingEvent
from mochi.training.finetune import finetune

_PATIENCE = timedelta(days=1)
"""A rank that writes samples lets the others wait; one that hangs is found by its supervisor."""


@dataclass(frozen=True)
class Opening:
    """What a rank is told first.

    Attributes:
        config: of the training.
        rank, size: its number, and how many there are.
        device: where it computes.
        meeting: where it finds the others.
        threads: of its processor.
    """

    config: Config
    rank: int
    size: int
    device: str
    meeting: Meeting
    threads: int


def main() -> None:
    """Serve the supervisor at stdin and stdout."""
    token = CancelToken()

    def take(kind: str, _: Mapping[str, Any]) -> None:
        if kind == "cancel":
            token.cancel()

    start, say = supervised(take)
    serve(start["opening"], token, say)
    threading.Event().wait()  # until the supervisor has heard all and goes


def serve(opening: Opening, token: CancelToken, say: Say) -> None:
    """Train, and say how that ended."""
    pulse = Pulse(busy=True)
    keep_beating(pulse, say)

    def tell(event: TrainingEvent) -> None:
        token.check()
        say("event", event=event)

    try:
        torch.set_num_threads(opening.threads)
        path = finetune(opening.config, world=_world(opening, pulse), reporters=[tell])
    except Cancelled:
        say("stopped")
    except BaseException as error:
        say("failed", failure=Failure.of(error))
    else:
        say("done", path=path)
    pulse.busy = False


def _world(opening: Opening, pulse: Pulse) -> World:
    device = torch.device(opening.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return World(
        PrefixStore("training", opening.meeting.join()),
        opening.rank,
        opening.size,
        device,
        _PATIENCE,
        opening.meeting.address(),
        pulse,
    )
