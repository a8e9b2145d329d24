"""One run as seen from outside: its phases as events, its cancellation, its lack of memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from mochi.core.errors import DoesNotFitError
from mochi.core.events import (
    CancelToken,
    Notice,
    OnEvent,
    Phase,
    PhaseEnded,
    PhaseStarted,
    ignore,
)

_NO_MEMORY = ("not enough memory", "can't allocate memory", "Cannot allocate memory")
"""What PyTorch's allocator of main memory says, in an error without a type of its own."""


@dataclass(frozen=True)
class Watch:
    """Who listens to a run, and who may stop it.

    Attributes:
        seconds: how long each phase took, so far.
    """

    on_event: OnEvent = ignore
    cancel: CancelToken = field(default_factory=CancelToken)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, phase: Phase, total: int | None = None) -> Iterator[None]:
        """Announce a phase and its end; cancelled before it begins if somebody asked.

        Raises:
            Cancelled: somebody asked.
            DoesNotFitError: the device ran out of memory inside.
        """
        self.cancel.check()
        self.on_event(PhaseStarted(phase, total))
        start = time.perf_counter()
        with _memory_named(phase):
            yield
        self.seconds[phase] = time.perf_counter() - start
        self.on_event(PhaseEnded(phase, self.seconds[phase]))

    def notice(self, message: str) -> None:
        """Tell the listener something its user should know."""
        self.on_event(Notice(message))


@contextmanager
def _memory_named(phase: Phase) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _does_not_fit(phase) from error
    except RuntimeError as error:
        if not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise _does_not_fit(phase) from error


def _does_not_fit(phase: Phase) -> DoesNotFitError:
    return DoesNotFitError(
        f"out of memory in the {phase} phase; fewer frames or fewer pixels need less"
    )
