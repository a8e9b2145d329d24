"""Ctrl-C and termination: stop at once, clean up once, tell the shell why.

The first signal raises `KeyboardInterrupt` where the program happens to be, so that every phase
stops, and sets the cancel token too, because an exception raised inside a callback of a C library
can get lost. Later signals are ignored: the first is still removing the temporary files.
"""

from __future__ import annotations

import signal
from types import FrameType

from mochi.core.events import CancelToken

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupt:
    """The signal that stopped this process, once one has."""

    def __init__(self) -> None:
        self.token = CancelToken()
        self._signal: int = signal.SIGINT

    @classmethod
    def install(cls) -> Interrupt:
        """Listen for signals from now until the process ends."""
        interrupt = cls()
        for name in _SIGNALS:
            number = getattr(signal, name, None)  # there is no SIGHUP on Windows
            if number is None or (name == "SIGHUP" and _is_ignored(number)):
                continue  # `nohup mochi ...` must outlive its terminal
            signal.signal(number, interrupt._stop)
        return interrupt

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130 for Ctrl-C."""
        return 128 + self._signal

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.token.cancelled:
            return
        self._signal = number
        self.token.cancel()
        raise KeyboardInterrupt


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN
