"""Telling a rank that hangs from one that has much to do."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mochi.parallel.pulse import Beat

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 20.0
"""Without a sign of life, after which a rank counts as hanging."""

IDLE_SECONDS = 20.0
"""In which a rank that others wait for uses no processor, after which it counts as hanging."""

WARM_EXCHANGES = 100
"""So many have to have shown what is usual."""

_IDLE_SHARE = 0.02
_LONGEST_TICK = 2.0


@dataclass
class _Seen:
    """What is known of a rank, in seconds of the watchdog's own time."""

    beat: Beat
    heard: float
    moved: float
    first: int
    longest: float = 0.0
    since: deque[tuple[float, float]] = field(default_factory=deque)


class Watchdog:
    """Fed with signs of life; says which rank hangs.

    Its time passes only while it is looked at, at most two seconds at once: when the machine
    sleeps, or the supervisor itself does, nobody is blamed for it.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._last: float | None = None
        self._ranks: dict[int, _Seen] = {}
        self._missed: dict[int, float] = {}
        self._counted: dict[int, int] = {}

    def begin(self, alive: Iterable[int] = ()) -> None:
        """A new run: what was long in the one before says nothing.

        Args:
            alive: ranks that have been heard before, and are missed if they are not again.
        """
        self._counted |= {rank: seen.beat.exchanges for rank, seen in self._ranks.items()}
        self._ranks.clear()
        self._missed = dict.fromkeys(alive, self._now)

    def tick(self, clock: float) -> None:
        """Time passes; `clock` is a monotonic one's reading in seconds."""
        if self._last is not None:
            self._now += min(_LONGEST_TICK, max(0.0, clock - self._last))
        self._last = clock

    def hear(self, rank: int, beat: Beat) -> None:
        """A sign of life."""
        seen = self._ranks.get(rank)
        self._missed.pop(rank, None)
        if seen is None:
            # Before its first sign of life in this run a quick rank may have done much.
            first = self._counted.get(rank, 0)
            self._ranks[rank] = _Seen(beat, self._now, self._now, first)
            return
        if (beat.exchanges, beat.waiting) != (seen.beat.exchanges, seen.beat.waiting):
            seen.longest = max(seen.longest, self._now - seen.moved)
            seen.moved = self._now
            seen.since.clear()
        seen.since.append((self._now, beat.activity))
        while len(seen.since) > 1 and self._now - seen.since[1][0] >= IDLE_SECONDS:
            seen.since.popleft()  # one as old as is asked for is enough
        seen.beat, seen.heard = beat, self._now

    def verdict(self) -> tuple[int, str] | None:
        """A rank that hangs, and how that shows; None while all is well."""
        heard = self._missed | {rank: seen.heard for rank, seen in self._ranks.items()}
        for rank, last in heard.items():
            if self._now - last > SILENCE_SECONDS:
                return rank, f"has not answered for {self._now - last:.0f} s"
        if not any(self._is_stuck(seen) for seen in self._ranks.values() if seen.beat.waiting):
            return None
        working = {r: seen for r, seen in self._ranks.items() if not seen.beat.waiting}
        for rank, seen in working.items():
            if seen.beat.busy and self._is_idle(seen):
                return rank, f"has done nothing for {IDLE_SECONDS:.0f} s while others wait for it"
        return self._behind(working)

    def _is_stuck(self, seen: _Seen) -> bool:
        return self._now - seen.moved > IDLE_SECONDS

    def _is_idle(self, seen: _Seen) -> bool:
        """Whether it neither computed nor read files lately."""
        when, activity = seen.since[0] if seen.since else (self._now, 0.0)
        if self._now - when < IDLE_SECONDS:
            return False
        return seen.beat.activity - activity < _IDLE_SHARE * IDLE_SECONDS

    def _behind(self, working: Mapping[int, _Seen]) -> tuple[int, str] | None:
        """A rank that computes far longer than ever before, when all others wait for it."""
        usual = max((seen.longest for seen in self._ranks.values()), default=0.0)
        patience = IDLE_SECONDS + 10 * usual
        for rank, seen in working.items():
            steady = seen.beat.exchanges - seen.first > WARM_EXCHANGES
            if seen.beat.busy and steady and self._now - seen.moved > patience:
                taken = self._now - seen.moved
                return rank, f"computes for {taken:.0f} s what took {usual:.1f} s before"
        return None
