"""What the supervisors of one run tell each other, where each has started its own ranks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

from torch._C._distributed_c10d import Store

from mochi.core.errors import MochiError, RankError
from mochi.parallel.pulse import Beat

_FAILED = "failed"
_SECONDS_BETWEEN, _PARTING_SECONDS = 1.0, 15.0


class Neighbours:
    """The other supervisors of a run, through the store that all of them reach.

    Args:
        store: a connection of this supervisor's own.
        here: the ranks that it looks after.
        size: how many there are in all.
    """

    def __init__(self, store: Store, here: Sequence[int], size: int):
        self._store, self._here = store, tuple(here)
        self._others = [rank for rank in range(size) if rank not in here]
        self._counts: dict[int, int] = {}
        self._heard: dict[int, int] = {}
        self._last = 0.0

    def beat(self, rank: int, beat: Beat) -> None:
        """Pass on a sign of life of a rank here."""
        self._counts[rank] = self._counts.get(rank, 0) + 1
        words = json.dumps([self._counts[rank], beat.to_dict()])
        with reached():
            self._store.set(f"beat/{rank}", words)

    def news(self) -> Iterator[tuple[int, Beat]]:
        """Signs of life of ranks elsewhere that are new, once a second.

        Raises:
            RankError: one of them failed, or nobody can be reached any more.
        """
        if time.monotonic() - self._last < _SECONDS_BETWEEN:
            return
        self._last = time.monotonic()
        self.raise_failure()
        for rank in self._others:
            with reached():
                known = self._store.check([f"beat/{rank}"])
                content = self._store.get(f"beat/{rank}") if known else b""
            if content:
                count, beat = json.loads(content)
                if count != self._heard.get(rank):
                    self._heard[rank] = count
                    yield rank, Beat(**beat)

    def raise_failure(self) -> None:
        """Raise the error of a rank elsewhere, if there is one.

        Raises:
            RankError: in that rank's words.
        """
        with reached():
            if not self._store.check([_FAILED]):
                return
            rank, words = json.loads(self._store.get(_FAILED))
        about = "" if words.startswith("rank ") else f"rank {rank} failed: "
        raise RankError(about + words, rank)

    def fail(self, rank: int, error: BaseException) -> None:
        """Tell the others that a rank here failed; the first to say so is heard."""
        words = str(error) if isinstance(error, MochiError) else repr(error)
        if not isinstance(error, Exception):
            words = "its command was stopped"
        content = json.dumps([rank, words.partition("\n")[0]])
        with suppress(RuntimeError):
            self._store.compare_set(_FAILED, "", content)

    def part(self, number: int) -> None:
        """Wait a while for the others to be done with a run too."""
        with suppress(RuntimeError):
            for rank in self._here:
                self._store.set(f"over/{number}/{rank}", "1")
            keys = [f"over/{number}/{rank}" for rank in self._others]
            self._store.wait(keys, timedelta(seconds=_PARTING_SECONDS))


@contextmanager
def reached() -> Iterator[None]:
    """Around a use of a store that another machine holds.

    Raises:
        RankError: it has gone.
    """
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            "the first rank's machine cannot be reached any more; what went wrong is said there"
        ) from error
