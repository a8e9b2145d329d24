"""Everything Mochi raises on purpose.

```
MochiError
├── RequestError        a value somebody asked for breaks a rule (also a ValueError)
├── WeightsError        a checkpoint cannot be used: truncated, foreign, NaN, wrong shapes
├── DownloadError       a hub did not deliver
├── VideoError          a video cannot be read or written
├── OutputError         the result has nowhere to go: exists, unwritable, disk full, taken
├── DoesNotFitError     more memory is needed than there is
├── SamplingError       the sampler left the numbers: NaN or infinity
├── RankError           a process of a run on many devices died, hangs or cannot be reached
└── Cancelled           somebody asked to stop
```

Anything else that escapes is a bug in Mochi.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

_SHOWN_CHARS = 80


class MochiError(Exception):
    """Base of all errors that Mochi raises for its users; the message is one clear line."""


class RequestError(MochiError, ValueError):
    """A value breaks a rule.

    Attributes:
        field: name of the offending field, as on every surface (`frames`, `guidance`, ...).
        value: what was given.
        rule: what is wrong with it, to be read after the value ("is not 6k+1").
        nearest: the nearest legal value or values, or None where there is none.
    """

    def __init__(self, field: str, value: object, rule: str, nearest: object | None = None):
        self.field = field
        self.value = value
        self.rule = rule
        self.nearest = nearest
        shown = repr(value)
        if len(shown) > _SHOWN_CHARS:
            shown = shown[:_SHOWN_CHARS] + "..."
        hint = "" if nearest is None else f"; nearest: {nearest}"
        super().__init__(f"{field}={shown} {rule}{hint}")


class WeightsError(MochiError):
    """A checkpoint, tokenizer or adapter cannot be used.

    Attributes:
        path: the file or folder at fault, where one is known.
    """

    def __init__(self, message: str, path: str | PathLike[str] | None = None):
        self.path = path
        super().__init__(message if path is None else f"{path}: {message}")


class DownloadError(MochiError):
    """A hub did not deliver what was asked for."""


class VideoError(MochiError):
    """A video or picture cannot be read or written."""


class OutputError(MochiError):
    """The result has nowhere to go: it exists already, the folder or disk refuses, or another
    run is writing the same name."""


class DoesNotFitError(MochiError):
    """The request needs more memory than there is; the message says what would fit.

    Attributes:
        latents: of a run that was finished but for decoding, to be saved; else None.
    """

    latents: Any = None


class SamplingError(MochiError):
    """The sampler left the numbers: a velocity or latent became NaN or infinite."""


class TrainingError(MochiError):
    """A training cannot go on: a loss became NaN or infinite, or another one writes its folder."""


class RankError(MochiError):
    """One of the processes that share a video died, hangs, cannot be reached, or is not like the
    others.

    Attributes:
        rank: its number, where it is known.
    """

    def __init__(self, message: str, rank: int | None = None):
        self.rank = rank
        super().__init__(message)


class Cancelled(MochiError):
    """The run was asked to stop, and did."""
