"""What a checkpoint and a network disagree about, name by name, in the file's own names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mochi.core.errors import WeightsError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_SHOWN = 12  # names per kind; a foreign file has thousands


@dataclass(frozen=True)
class WrongShape:
    """A tensor that is there with another shape than the network has."""

    found: Shape
    expected: Shape


@dataclass(frozen=True)
class LoadReport:
    """The difference between what a network needs and what a checkpoint holds.

    Attributes:
        missing: names the network needs, with their shapes.
        unexpected: names that belong to nothing in the network.
        wrong_shape: names in both, with both shapes.
    """

    missing: Shapes
    unexpected: Shapes
    wrong_shape: Mapping[str, WrongShape]

    @classmethod
    def compare(cls, expected: Shapes, found: Shapes) -> LoadReport:
        """Set `found` (a checkpoint) against `expected` (a network)."""
        return cls(
            missing={n: s for n, s in expected.items() if n not in found},
            unexpected={n: s for n, s in found.items() if n not in expected},
            wrong_shape={
                n: WrongShape(tuple(found[n]), tuple(s))
                for n, s in expected.items()
                if n in found and tuple(found[n]) != tuple(s)
            },
        )

    @property
    def ok(self) -> bool:
        """Whether both agree on every name and every shape."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    @property
    def summary(self) -> str:
        """One line of counts."""
        return (
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.wrong_shape)} of the wrong shape"
        )

    def __str__(self) -> str:
        wrong = [f"{n} {w.found}, not {w.expected}" for n, w in self.wrong_shape.items()]
        sections = (
            ("missing", _listed(self.missing)),
            ("unexpected", _listed(self.unexpected)),
            ("wrong shape", wrong),
        )
        lines = [f"  {kind}: {_shortened(items)}" for kind, items in sections if items]
        return "\n".join([self.summary, *lines])

    def raise_if_bad(self, what: str, path: str | None = None) -> None:
        """Raise the whole report unless all is well; `what` names the network.

        Raises:
            WeightsError: anything is missing, unexpected or of the wrong shape.
        """
        if not self.ok:
            raise WeightsError(f"does not fit {what}: {self}", path)


def _listed(shapes: Shapes) -> list[str]:
    return [f"{name} {tuple(shape)}" for name, shape in shapes.items()]


def _shortened(items: Sequence[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f", and {more} more" if more > 0 else "")
