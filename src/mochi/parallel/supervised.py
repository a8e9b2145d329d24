"""A rank's end of the way to its supervisor: it hears, says, beats, and goes when that one goes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from mochi.parallel.local import rank_channel
from mochi.parallel.pulse import Pulse
from mochi.parallel.watchdog import BEAT_SECONDS

Say = Callable[..., None]
"""`say(kind, **content)` tells the supervisor something; from any thread."""


def supervised(take: Callable[[str, Mapping[str, Any]], None]) -> tuple[Mapping[str, Any], Say]:
    """What the supervisor at stdin said first, and how to answer it at stdout.

    The process ends when the supervisor goes, whatever it is doing.

    Args:
        take: called by a thread with each later message, its kind and its content.
    """
    channel = rank_channel()
    _, start = channel.hear()

    def listen() -> None:
        try:
            while True:
                take(*channel.hear())
        except (EOFError, OSError):
            os._exit(0)

    def say(kind: str, **content: Any) -> None:
        try:
            channel.say(kind, **content)
        except OSError:
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return start, say


def keep_beating(pulse: Pulse, say: Say) -> None:
    """Tell the supervisor every second how this rank is, from now on."""

    def beat() -> None:
        while True:
            say("beat", beat=pulse.beat())
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat, daemon=True).start()
