"""How much of a model is in memory at once: four ways, from the fastest to the smallest.

Imports no torch: the command line checks the word before anything else.
"""

from __future__ import annotations

from typing import Literal

from mochi.core.errors import RequestError

Mode = Literal["high", "balanced", "low", "minimal"]

MODES: tuple[Mode, ...] = ("high", "balanced", "low", "minimal")
"""`high`: every network stays on the device. `balanced`: each is there only while it is used.
`low`: blocks come from the host's memory one after the other. `minimal`: they come from the file,
and their pages are given back behind them."""

AUTO = "auto"


def check_mode(name: str) -> Mode | None:
    """A mode by its name; None for `auto`.

    Raises:
        RequestError: there is no such mode.
    """
    if name == AUTO:
        return None
    if name not in MODES:
        raise RequestError("memory", name, "is unknown", ", ".join([AUTO, *MODES]))
    return name


def smaller(mode: Mode) -> Mode | None:
    """The next mode that takes less; None after the smallest."""
    place = MODES.index(mode) + 1
    return MODES[place] if place < len(MODES) else None
