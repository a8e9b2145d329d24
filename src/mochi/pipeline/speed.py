"""The fast paths of a run: set on the transformer, and announced."""

from __future__ import annotations

from collections.abc import Callable

from mochi.core.speed import Speed
from mochi.model.attention import ChosenAttention
from mochi.model.dit import AsymmDiT
from mochi.model.fast import make_kernels


def tune(dit: AsymmDiT, speed: Speed, tokens: int, announce: Callable[[str], None]) -> None:
    """Let the transformer compute as `speed` says, and say how, for videos of so many tokens.

    An attention kernel is announced when it first runs; what was measured in an earlier run is
    kept. One that somebody else put there stays.

    Raises:
        RequestError: the kernels need a package that is not here.
    """
    if isinstance(dit.attention, ChosenAttention):
        if dit.attention.name != speed.attention:
            dit.attention = ChosenAttention(speed.attention)
        dit.attention.announce_to(announce)
    if dit.kernels.name != speed.kernels:
        dit.kernels = make_kernels(speed.kernels)
    dit.passes, dit.tabulates = speed.passes, speed.tables
    kernels = dit.kernels.on(dit.pos_frequencies.device).name
    tables = "of all steps at once" if speed.tables else "step by step"
    passes = "one batch" if dit.runs_together(2 * tokens) else "one after the other"
    announce(f"kernels: {kernels}; modulation: {tables}; both passes of a step: {passes}")
