"""What a run says while it works, and how it is stopped.

A run calls `on_event` with one of the events below, in its own thread; whoever listens returns
quickly. A `CancelToken` may be set from any thread; the run notices before its next network pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mochi.core.errors import Cancelled

if TYPE_CHECKING:
    import numpy as np

Phase = Literal["text", "load", "encode", "denoise", "decode", "write"]
"""The phases of a run, in their order; "encode" is of runs that begin with a video. Decoding and
writing overlap; "write" closes the file."""


@dataclass(frozen=True)
class PhaseStarted:
    """A phase begins; `total` counts its steps or frames where that is known."""

    phase: Phase
    total: int | None = None


@dataclass(frozen=True)
class PhaseEnded:
    """A phase is over."""

    phase: Phase
    seconds: float


@dataclass(frozen=True)
class StepDone:
    """A sampling step is done.

    Attributes:
        step: the step just done, from 1 to `steps`.
        sigma: the noise level reached.
        seconds: duration of this step.
        elapsed_seconds: since the first step began.
        eta_seconds: expected until the last step ends.
        preview: makes a picture of the clean video as estimated now, uint8 `(t, h, w, 3)` at
            the latent's size, or None where no preview was asked for. It costs nothing unless
            called, and may be called only before the next step.
    """

    step: int
    steps: int
    sigma: float
    seconds: float
    elapsed_seconds: float
    eta_seconds: float
    preview: Callable[[], np.ndarray] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class FramesDone:
    """So many frames of the video are decoded and handed on."""

    frames: int
    total: int


@dataclass(frozen=True)
class Notice:
    """Something a user should know: a fast path chosen, a prompt that was cut."""

    message: str


Event = PhaseStarted | PhaseEnded | StepDone | FramesDone | Notice
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of a run nobody listens to."""


class CancelToken:
    """A request to stop, from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the run to stop; it raises `Cancelled` before its next network pass."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if somebody asked."""
        if self._event.is_set():
            raise Cancelled("cancelled")
