"""A rank of a training: one of several processes that train together, started by `many`.

It is told `start`, says `event`s, if it is the first, and `done` or `failed` in the end, and every
second a `beat`. When its supervisor goes, it goes too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import PrefixStore

from mochi.core.errors import Cancelled
from mochi.core.events import CancelToken
from mochi.parallel.channel import Failure
from mochi.parallel.local import rank_channel
from mochi.parallel.meeting import Meeting
from mochi.parallel.pulse import Pulse
from mochi.parallel.watchdog import BEAT_SECONDS
from mochi.parallel.world import World
from mochi.training.config import Config
from mochi.training.events import TrainingEvent
from mochi.training.finetune import finetune

Say = Callable[..., None]

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
    channel = rank_channel()
    _, start = channel.hear()
    token = CancelToken()

    def listen() -> None:
        try:
            while True:
                if channel.hear()[0] == "cancel":
                    token.cancel()
        except (EOFError, OSError):
            os._exit(0)

    def say(kind: str, **content: Any) -> None:
        try:
            channel.say(kind, **content)
        except OSError:
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    serve(start["opening"], token, say)
    threading.Event().wait()  # until the supervisor has heard all and goes


def serve(opening: Opening, token: CancelToken, say: Say) -> None:
    """Train, and say how that ended."""
    pulse = Pulse(busy=True)
    threading.Thread(target=_beat, args=(pulse, say), daemon=True).start()

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


def _beat(pulse: Pulse, say: Say) -> None:
    while True:
        say("beat", beat=pulse.beat())
        time.sleep(BEAT_SECONDS)
