"""What routes do in threads, because it blocks: so few at once that they do not fight for the
interpreter, and looks apart from orders.

Orders wait in turn for the one who writes to the database. Were they to share their threads with
looks, whoever only wants to know how far a job is would wait for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

_LOOKS, _ORDERS = 4, 3
T = TypeVar("T")


class Errands:
    """The threads of one server, which runs in one event loop."""

    def __init__(self) -> None:
        self._looks = CapacityLimiter(_LOOKS)
        self._orders = CapacityLimiter(_ORDERS)

    async def look(self, act: Callable[[], T]) -> T:
        """Something short that reads."""
        return await run_sync(act, limiter=self._looks)

    async def order(self, act: Callable[[], T]) -> T:
        """Something that writes."""
        return await run_sync(act, limiter=self._orders)
