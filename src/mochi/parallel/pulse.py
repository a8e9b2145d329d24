"""What a rank is doing, as far as others may have to know: how it is told slow from stuck."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from mochi.core.errors import RankError

_SECONDS_OF_A_PAGE = 0.05

resource = None if sys.platform == "win32" else import_module("resource")


class PeerLostError(RankError):
    """An exchange failed: another rank has gone, and that one's error says why."""


@dataclass
class Pulse:
    """Kept by a rank's main thread, read by another one.

    Attributes:
        exchanges: how many it has begun.
        waiting: whether it waits for others at this moment.
        busy: whether it works on something that others wait for.
        thread: the one that works.
    """

    exchanges: int = 0
    waiting: bool = False
    busy: bool = False
    thread: int = field(default_factory=threading.get_native_id)

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Around whatever may wait for another rank.

        Raises:
            PeerLostError: the exchange failed.
        """
        self.exchanges += 1
        self.waiting = True
        try:
            yield
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            raise PeerLostError(f"an exchange with another rank failed: {first}") from error
        finally:
            self.waiting = False

    def beat(self) -> Beat:
        """As it stands."""
        return Beat(self.exchanges, self.waiting, self.busy, _activity(self.thread))


@dataclass(frozen=True)
class Beat:
    """A sign of life of one rank.

    Attributes:
        exchanges, waiting, busy: of its `Pulse`.
        activity: grows while it computes, by a second in a second, and while it reads files.
    """

    exchanges: int
    waiting: bool
    busy: bool
    activity: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _activity(thread: int) -> float:
    return _processor_seconds(thread) + _SECONDS_OF_A_PAGE * _pages_read()


def _processor_seconds(thread: int) -> float:
    """That a thread used, or stood in line for: on a crowded machine it may get next to none."""
    try:
        ran, waited, _ = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()
    except (OSError, ValueError):  # not Linux, or a kernel that does not count
        return time.process_time()
    return (int(ran) + int(waited)) / 1e9


def _pages_read() -> int:
    if resource is None:
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int(used.ru_majflt + used.ru_inblock)
