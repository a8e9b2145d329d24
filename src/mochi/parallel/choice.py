"""`--parallel auto`: which scheme, and why."""

from __future__ import annotations

from dataclasses import dataclass

from mochi.core.errors import RequestError
from mochi.parallel.links import Link
from mochi.parallel.scheme import PASSES, Scheme
from mochi.parallel.shares import shares

AUTO = "auto"
_UNEVEN = 1.2
"""Heads cut so unevenly cost less than a ring's bytes where the link is slow."""


@dataclass(frozen=True)
class Circumstances:
    """What a choice depends on.

    Attributes:
        devices: how many.
        machines: on how many machines, each with as many.
        heads: of the network.
        guided: whether steps have two passes.
        link: between the devices of a machine.
    """

    devices: int
    machines: int
    heads: int
    guided: bool
    link: Link


@dataclass(frozen=True)
class Choice:
    """A scheme and the line that says why."""

    scheme: Scheme
    why: str


def choose(asked: str, about: Circumstances) -> Choice:
    """The scheme that was asked for, or a fitting one.

    Guidance comes first: it sends a few megabytes a step. Then heads against tokens among devices
    of one machine, as far as it cuts heads evenly; a ring for the rest, and between machines, where
    keys travel behind the computation (PERFORMANCE 4).

    Args:
        asked: `auto`, or a scheme.
        about: see there.

    Raises:
        RequestError: the scheme is wrong, or does not go with the devices or heads.
    """
    where = f"{about.devices} devices"
    if about.machines > 1:
        where += f" on {about.machines} machines"
    if asked != AUTO:
        scheme = Scheme.parse(asked).check(about.devices, about.heads)
        if scheme.guidance > 1 and not about.guided:
            rule = "needs two passes in a step, and guidance 1 has one"
            nearest = _fitting(about)[0]
            raise RequestError("parallel", asked, rule, str(nearest))
        return Choice(scheme, f"parallel: {scheme} on {where}, as asked")
    scheme, reasons = _fitting(about)
    return Choice(scheme, f"parallel: {scheme} on {where} over {about.link}: {reasons}")


def _fitting(about: Circumstances) -> tuple[Scheme, str]:
    reasons = []
    guidance = PASSES if about.guided and about.devices % PASSES == 0 else 1
    if guidance > 1:
        reasons.append("the two passes of a step on two halves")
    elif not about.guided:
        reasons.append("one pass a step")
    rest = about.devices // guidance
    near = _near(rest, about)
    ulysses = _even(near, about.heads)
    if ulysses == 1 < near <= about.heads and _prefers_heads(near, about):
        ulysses = near
    if ulysses > 1:
        cut = "evenly" if about.heads % ulysses == 0 else "as evenly as they go"
        reasons.append(f"{about.heads} heads cut {cut} by {ulysses}")
    if rest > ulysses:
        between = " between machines" if about.machines > 1 and rest > near else ""
        reasons.append(f"a ring of {rest // ulysses}{between}")
    return Scheme(guidance, ulysses, rest // ulysses), ", ".join(reasons) or "one device"


def _near(rest: int, about: Circumstances) -> int:
    """Devices of one half that are on one machine."""
    on_machine = about.devices // about.machines
    for near in range(min(rest, on_machine), 0, -1):
        if rest % near == 0 and on_machine % near == 0:
            return near
    return 1


def _even(near: int, heads: int) -> int:
    return max(u for u in range(1, near + 1) if near % u == 0 and heads % u == 0)


def _prefers_heads(near: int, about: Circumstances) -> bool:
    """Whether heads may be cut unevenly: where bytes are dear, and the loss is small."""
    loss = shares(about.heads, near)[0] * near / about.heads
    return about.link == "PCIe" and loss <= _UNEVEN
