"""Adapters as they are asked for, `FILE:0.8`. Imports no torch: what is wrong is said at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mochi.core.errors import RequestError

LoraMode = Literal["live", "merged"]
MODES: tuple[LoraMode, ...] = get_args(LoraMode)

_NAN = float("nan")
_LARGEST = 1e6  # compared first: an int may be larger than any float, a float may be NaN
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.A | re.I)


@dataclass(frozen=True)
class LoraSpec:
    """One adapter that is asked for.

    Attributes:
        source: a file, a folder, or a name on the hub.
        scale: how much of it; 1 is as it was trained, less than 0 turns it round.
        mode: computed beside the weights, or put into them; None leaves it to the caller.
    """

    source: str
    scale: float = 1.0
    mode: LoraMode | None = None

    @classmethod
    def parse(cls, text: str) -> LoraSpec:
        """Read `SOURCE` or `SOURCE:SCALE`; sources may hold colons.

        Raises:
            RequestError: there is no source, or what follows it is no scale.
        """
        if not text.strip():
            raise RequestError(
                "lora", text, "is empty; name a file, or a file and a scale", "FILE:0.8"
            )
        source, colon, end = text.rpartition(":")
        if not colon or _exists(text):
            return cls(text)
        if not source:
            raise RequestError("lora", text, "names no file before the scale", f"FILE{text}")
        if _NUMBER.fullmatch(end):
            return cls(source, checked_scale(float(end), text))
        if _exists(source):
            rule = f"does not end in a scale: {end!r} is no number"
            raise RequestError("lora", text, rule, f"{source}:1.0")
        return cls(text)  # a colon of the path's own, as in C:\\lora.safetensors


LoraGiven = str | Path | tuple[str | Path, float] | LoraSpec
"""What Python takes: a path, `"PATH:SCALE"`, or a path and a scale."""


def lora_spec(given: object) -> LoraSpec:
    """What was given as one thing.

    Raises:
        RequestError: it is none of these, or its scale is no finite number.
    """
    if isinstance(given, LoraSpec):
        return given
    if isinstance(given, str):
        return LoraSpec.parse(given)
    if isinstance(given, Path):
        return LoraSpec(str(given))
    if isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[0], (str, Path)):
        return LoraSpec(str(given[0]), checked_scale(given[1], given))
    raise RequestError("loras", given, "is no path, nor a path and a scale", '("FILE", 0.8)')


def checked_scale(scale: object, given: object = None) -> float:
    """The scale, if it is a finite number.

    Args:
        scale: the number.
        given: what the user wrote, for the message.

    Raises:
        RequestError: it is not.
    """
    number = scale if isinstance(scale, (int, float)) and not isinstance(scale, bool) else _NAN
    if not abs(number) <= _LARGEST:
        shown = scale if given is None else given
        raise RequestError("lora", shown, "has a scale that is no finite number", 1.0)
    return float(number)


def checked_mode(mode: str) -> LoraMode:
    """The mode, if there is such a one.

    Raises:
        RequestError: there is not; lists those there are.
    """
    for known in MODES:
        if mode == known:
            return known
    raise RequestError("lora_mode", mode, "is unknown", ", ".join(MODES))


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, no such user
        return False
