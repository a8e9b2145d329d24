"""What of an adapter does not fit, layer by layer, in the file's own names."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from os import PathLike
from typing import Literal

from mochi.core.errors import WeightsError

ProblemKind = Literal["foreign", "incomplete", "wrong shape", "wrong rank", "not finite"]

_SHOWN = 8  # per kind; a file for another model has hundreds
_SHOWN_CHARS = 120


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: see `ProblemKind`.
        name: of the layer, or of the tensor, in the file.
        what: the rule it breaks, to be read after the name.
    """

    kind: ProblemKind
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name[:_SHOWN_CHARS]} {self.what}"


@dataclass(frozen=True)
class LoraReport:
    """Everything that is wrong with an adapter.

    Attributes:
        problems: in the order in which they were found.
        fitting: how many layers of the file are as they should be.
        layers: how many there are.
    """

    problems: tuple[Problem, ...]
    fitting: int
    layers: int

    @property
    def ok(self) -> bool:
        """Whether all of it fits."""
        return not self.problems

    @property
    def summary(self) -> str:
        """One line of counts."""
        counts = Counter(problem.kind for problem in self.problems)
        shown = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        return f"{self.fitting} of {self.layers} layers fit" + (f"; {shown}" if shown else "")

    def __str__(self) -> str:
        by_kind: dict[str, list[str]] = defaultdict(list)
        for problem in self.problems:
            by_kind[problem.kind].append(str(problem))
        lines = [f"  {kind}: {_shortened(items)}" for kind, items in by_kind.items()]
        return "\n".join([self.summary, *lines])

    def raise_if_bad(self, path: str | PathLike[str]) -> None:
        """Raise the whole report unless all is well.

        Raises:
            WeightsError: anything is wrong.
        """
        if not self.ok:
            fits = "fits only in part" if self.fitting else "fits no layer"
            raise WeightsError(f"is an adapter that {fits}: {self}", path)


def _shortened(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
