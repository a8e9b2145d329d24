"""Waiting for a bell without holding a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from mochi.serving.bus import EventBus


class Rung:
    """Whether one of the bells has rung since `clear`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        """From now on."""
        self._event.clear()

    async def within(self, seconds: float) -> bool:
        """Wait for a ring; False when there was none."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def rings(bus: EventBus, *topics: str) -> AsyncIterator[Rung]:
    """Listen to these topics."""
    rung = Rung()
    leaves = [bus.listen(topic, rung.wake) for topic in topics]
    try:
        yield rung
    finally:
        for leave in leaves:
            leave()
