"""The supervisor of some ranks: hears all of them, and ends all when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from mochi.core.errors import Cancelled, RankError
from mochi.core.events import CancelToken
from mochi.parallel.channel import Failure
from mochi.parallel.neighbours import Neighbours
from mochi.parallel.pulse import Beat
from mochi.parallel.watchdog import Watchdog

Message = tuple[int, str, dict[str, Any]]
Take = Callable[[int, str, dict[str, Any]], None]
"""Receives a message of a rank: its number, the kind of message, what is in it."""

_POLL_SECONDS, _GRACE_SECONDS, _STOP_SECONDS = 0.2, 10.0, 5.0


class Ranks(Protocol):
    """Ranks that were started, wherever they are."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """The numbers of those that are looked after here."""
        ...

    def say(self, rank: int, kind: str, **content: Any) -> None:
        """Tell one of them something."""
        ...

    def poll(self, seconds: float) -> list[Message]:
        """What they say; `ended` with a `reason` is a rank's last word."""
        ...

    def end(self) -> None:
        """End all of them at once, whatever they do."""
        ...


class Crew:
    """Ranks under supervision.

    Attributes:
        ranks: those of this supervisor.
        over: whether they have been ended.
    """

    def __init__(self, ranks: Ranks, neighbours: Neighbours | None = None):
        self.ranks = ranks
        self.over = False
        self._neighbours = neighbours
        self._watchdog = Watchdog()
        self._ready = False  # a process that begins may take long to say so

    def tell(self, kind: str, **content: Any) -> None:
        """Tell all ranks."""
        for rank in self.ranks.ranks:
            self.ranks.say(rank, kind, **content)

    def collect(
        self, kind: str, take: Take | None = None, cancel: CancelToken | None = None
    ) -> dict[int, dict[str, Any]]:
        """Wait until every rank has said `kind`; returns what each said with it.

        If anything goes wrong, all ranks are ended: the crew is over.

        Args:
            kind: of the message.
            take: receives all other messages.
            cancel: makes the ranks stop.

        Raises:
            Cancelled: somebody asked. If the ranks agreed to stop, they are ready for more.
            RankError: a rank died, hangs or cannot be reached.
            Exception: what the first rank that failed raised.
        """
        try:
            return self._collect(kind, take, cancel or CancelToken())
        except Cancelled as error:
            if not isinstance(error, _Agreed):
                self.end()
            self._tell_neighbours(error)
            raise Cancelled(str(error)) from None
        except BaseException as error:
            self.end()
            self._tell_neighbours(error)
            raise

    def end(self) -> None:
        """End all ranks."""
        self.over = True
        self.ranks.end()

    def part(self, number: int) -> None:
        """The run is over here; wait for the supervisors of other ranks, since what all of them
        talk through may go with this one."""
        if self._neighbours is not None:
            self._neighbours.part(number)

    def _tell_neighbours(self, error: BaseException) -> None:
        if self._neighbours is not None and self.over:
            rank = getattr(error, "rank", None)
            self._neighbours.fail(self.ranks.ranks[0] if rank is None else rank, error)

    def _collect(
        self, kind: str, take: Take | None, cancel: CancelToken
    ) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        stopped: set[int] = set()
        asked: float | None = None
        self._watchdog.begin(self.ranks.ranks if self._ready else ())
        while len(found) + len(stopped) < len(self.ranks.ranks):
            if cancel.cancelled and asked is None:
                asked = time.monotonic()
                self.tell("cancel")
            if asked is not None and time.monotonic() - asked > _STOP_SECONDS:
                raise Cancelled("cancelled")
            heard = self.ranks.poll(_POLL_SECONDS)
            failed = list(filter(_is_failure, heard))
            if failed:
                raise self._cause(failed)
            for rank, said, content in heard:
                if said == kind:
                    found[rank] = content
                elif said == "stopped":
                    stopped.add(rank)
                elif said == "beat":
                    self._hear_beat(rank, content["beat"])
                elif take is not None:
                    take(rank, said, content)
            self._look_after()
        if stopped:
            raise _Agreed("cancelled")
        self._ready = True
        return found

    def _hear_beat(self, rank: int, beat: Beat) -> None:
        self._watchdog.hear(rank, beat)
        if self._neighbours is not None:
            self._neighbours.beat(rank, beat)

    def _look_after(self) -> None:
        self._watchdog.tick(time.monotonic())
        if self._neighbours is not None:
            for rank, beat in self._neighbours.news():
                self._watchdog.hear(rank, beat)
        verdict = self._watchdog.verdict()
        if verdict is not None:
            rank, words = verdict
            raise RankError(f"rank {rank} {words}; all ranks were ended", rank)

    def _cause(self, told: list[Message]) -> Exception:
        """The error of the rank that failed first: those that only lost it may be heard before."""
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline and not any(map(_is_cause, told)):
            told += filter(_is_failure, self.ranks.poll(_POLL_SECONDS))
            if self._neighbours is not None:
                self._neighbours.raise_failure()
        rank, said, content = next(filter(_is_cause, told), told[0])
        if said == "ended":
            return RankError(f"rank {rank} {content['reason']}", rank)
        failure: Failure = content["failure"]
        return failure.error(rank)


class _Agreed(Cancelled):
    """All ranks stopped at the same place."""


def _is_failure(message: Message) -> bool:
    return message[1] in ("failed", "ended")


def _is_cause(message: Message) -> bool:
    return message[1] == "ended" or not message[2]["failure"].echo
