"""How a number of devices shares one video, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod

from mochi.core.errors import RequestError

PASSES = 2
"""Network passes of a guided step: more devices cannot share them."""


@dataclass(frozen=True)
class Scheme:
    """Three ways of sharing, one inside the other (PERFORMANCE 4).

    Attributes:
        guidance: the two passes of a guided step on two halves of the devices.
        ulysses: heads against tokens inside attention, all to all.
        ring: keys and values travel round.

    Raises:
        RequestError: a number is not positive, or `guidance` is over 2.
    """

    guidance: int = 1
    ulysses: int = 1
    ring: int = 1

    def __post_init__(self) -> None:
        for field, size in self.sizes.items():
            if size < 1:
                raise RequestError(f"parallel {field}", size, "is not a positive number", 1)
        if self.guidance > PASSES:
            rule = "must be 1 or 2: a guided step has two passes"
            raise RequestError("parallel guidance", self.guidance, rule, PASSES)

    @property
    def sizes(self) -> dict[str, int]:
        """The three numbers by name, from the outermost inwards."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def devices(self) -> int:
        """How many devices it takes."""
        return prod(self.sizes.values())

    @property
    def half(self) -> int:
        """How many devices share the tokens of one pass."""
        return self.ulysses * self.ring

    def __str__(self) -> str:
        return ",".join(f"{name}={size}" for name, size in self.sizes.items())

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """Read `guidance=2,ulysses=4,ring=1`; what is not named is 1.

        Raises:
            RequestError: an unknown name, a name twice, or what is no number.
        """
        given: dict[str, int] = {}
        names = [field.name for field in fields(cls)]
        for item in text.split(","):
            name, _, size = (part.strip() for part in item.partition("="))
            if name not in names or name in given or not size.isdecimal():
                rule = "is not of the form guidance=A,ulysses=B,ring=C"
                raise RequestError("parallel", text, rule, "guidance=2,ulysses=4,ring=1")
            given[name] = int(size)
        return cls(**given)

    def check(self, devices: int, heads: int) -> Scheme:
        """Refuse what these devices or this network cannot do.

        Raises:
            RequestError: another number of devices, or more Ulysses ranks than heads.
        """
        if self.devices != devices:
            rule = f"takes {self.devices} devices, and there are {devices}"
            raise RequestError("parallel", str(self), rule, str(suggest(devices, heads)))
        if self.ulysses > heads:
            rule = f"cuts {heads} heads into {self.ulysses}"
            raise RequestError("parallel", str(self), rule, str(suggest(devices, heads)))
        return self


def suggest(devices: int, heads: int) -> Scheme:
    """A scheme for some devices: guidance first, then as much Ulysses as cuts the heads evenly,
    and a ring for the rest; where that would leave one device with all, heads are cut unevenly."""
    guidance = PASSES if devices % PASSES == 0 else 1
    rest = devices // guidance
    even = max(u for u in range(1, rest + 1) if rest % u == 0 and heads % u == 0)
    return Scheme(guidance, even, rest // even)


def schemes(devices: int, heads: int) -> list[Scheme]:
    """All ways in which so many devices can share a guided step of a network with these heads."""
    found = []
    for guidance in range(1, PASSES + 1):
        rest, left = divmod(devices, guidance)
        if left == 0:
            sizes = (u for u in range(1, min(rest, heads) + 1) if rest % u == 0)
            found += [Scheme(guidance, ulysses, rest // ulysses) for ulysses in sizes]
    return found
