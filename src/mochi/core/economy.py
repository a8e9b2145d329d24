"""What a request may leave out for speed, as values; all of it is off unless asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mochi.core.errors import RequestError

CacheKind = Literal["first-block", "tea"]
CACHE_KINDS: tuple[str, ...] = get_args(CacheKind)
USUAL_THRESHOLDS = {"first-block": 0.1, "tea": 0.06}
OFF = "off"


@dataclass(frozen=True)
class StepCache:
    """Which step cache, and how much change it overlooks."""

    kind: CacheKind
    threshold: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.threshold:g}"

    @classmethod
    def parse(cls, text: object) -> StepCache | None:
        """Read `off`, `first-block`, `first-block:0.1`, `tea` or `tea:0.06`; None is off.

        Raises:
            RequestError: another kind, or a threshold that is not between 0 and 1.
        """
        rule = "is none of off, first-block:T, tea:T with a threshold T between 0 and 1"
        nearest = "first-block:0.1"
        if text == OFF:
            return None
        kind, colon, number = str(text).partition(":")
        if not isinstance(text, str) or kind not in CACHE_KINDS:
            raise RequestError("step_cache", text, rule, nearest)
        try:
            threshold = float(number) if colon else USUAL_THRESHOLDS[kind]
        except ValueError:
            raise RequestError("step_cache", text, rule, nearest) from None
        if not math.isfinite(threshold) or not 0 < threshold < 1:
            raise RequestError("step_cache", text, rule, nearest)
        return cls("first-block" if kind == "first-block" else "tea", threshold)
