"""A plan: how each stage's weights are held, what that takes, and whether the machine has it.

What is named by the user is done if it can be done at all. What is left to `auto` leaves headroom,
and is as fast as the memory allows: everything in place if it fits together, else for each stage
the fastest way that fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mochi.core.sizes import VideoSize
from mochi.memory.modes import AUTO, MODES, Mode
from mochi.memory.need import Need

GIB = 2**30
_HEADROOM_SHARE, _HEADROOM_LEAST, _HEADROOM_MOST = 0.08, 64 * 2**20, GIB


@dataclass(frozen=True)
class Room:
    """Memory that is free, in bytes.

    Attributes:
        device: where the networks run.
        host: of the host; the same as `device` where that is the host.
        on_cpu: whether it is.
    """

    device: int
    host: int
    on_cpu: bool

    @property
    def comfortable(self) -> Room:
        """What a plan may use, so that others find some too."""
        return Room(_less_headroom(self.device), _less_headroom(self.host), self.on_cpu)

    def has(self, need: Need) -> bool:
        """Whether a stage can run."""
        if self.on_cpu:
            return need.total + need.host <= self.host
        return need.total <= self.device and need.host <= self.host

    def has_easily(self, need: Need) -> bool:
        """Whether a stage can run at full speed: on a CPU the pages of its files stay as well."""
        room = self.comfortable
        if not self.on_cpu:
            return room.has(need)
        return need.total + need.host + need.mapped <= room.host


@dataclass(frozen=True)
class Plan:
    """How a run is going to use memory.

    Attributes:
        size: of the video.
        device: where it runs, as torch names it.
        asked: the mode that was asked for, or `auto`.
        needs: of each stage, in the mode that was chosen for it.
        room: what was free when this was planned.
        program: bytes that the program itself holds, of its own and of files (its libraries).
        fits: whether every stage can run.
    """

    size: VideoSize
    device: str
    asked: str
    needs: tuple[Need, ...]
    room: Room
    program: tuple[int, int] = (0, 0)
    fits: bool = True

    @property
    def mode(self) -> str:
        """The mode of all stages, or each stage with its own."""
        modes = {need.mode for need in self.needs}
        if len(modes) == 1:
            return modes.pop()
        return ", ".join(f"{need.stage} {need.mode}" for need in self.needs)

    @property
    def device_bytes(self) -> int:
        """The most on the device at any time."""
        return max((need.total for need in self.needs), default=0)

    @property
    def host_bytes(self) -> int:
        """The most of the host's memory that the process holds for itself at any time."""
        on_host = [need.host + (need.total if self.room.on_cpu else 0) for need in self.needs]
        return self.program[0] + max(on_host, default=0)

    @property
    def mapped_bytes(self) -> int:
        """The most pages of files that are in memory at any time; the system may take them."""
        return self.program[1] + max((need.mapped for need in self.needs), default=0)

    @property
    def seconds(self) -> float | None:
        """How long the run takes; None where this machine was not measured."""
        known = [need.seconds for need in self.needs if need.seconds is not None]
        return sum(known) if len(known) == len(self.needs) else None

    @property
    def announcement(self) -> str:
        """One line for the user."""
        used, free = self.device_bytes, self.room.device
        line = f"memory: {self.mode}; at most {gib(used)} of {gib(free)} free on {self.device}"
        if not self.room.on_cpu:
            line += f", {gib(self.host_bytes)} of the host's"
        if self.seconds is not None:
            line += f"; about {duration(self.seconds)}"
        return line

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "size": asdict(self.size),
            "device": self.device,
            "asked": self.asked,
            "mode": self.mode,
            "stages": [asdict(need) | {"total": need.total} for need in self.needs],
            "device_bytes": self.device_bytes,
            "host_bytes": self.host_bytes,
            "mapped_bytes": self.mapped_bytes,
            "seconds": self.seconds,
            "available_device_bytes": self.room.device,
            "available_host_bytes": self.room.host,
            "fits": self.fits,
        }


def choose(
    options: Mapping[Mode, Sequence[Need]], room: Room, asked: Mode | None
) -> tuple[Need, ...]:
    """The needs of the modes to use, a stage after the other.

    Args:
        options: what every stage takes in every mode; all have the same stages. In `high` a stage
            takes what it needs while all other networks are there too.
        room: what is free.
        asked: a mode, or None for the fastest that fits. Where nothing fits, it is the smallest.
    """
    if asked is not None:
        return tuple(options[asked])
    if all(room.has_easily(need) for need in options["high"]):
        return tuple(options["high"])
    stages = zip(*(options[mode] for mode in MODES[1:]), strict=True)
    return tuple(_fastest(_sensible(needs), room) for needs in stages)


def asked_name(asked: Mode | None) -> str:
    """The word for what was asked."""
    return asked or AUTO


def gib(size: int) -> str:
    """Bytes to read."""
    if size < GIB / 10:
        return f"{size / 2**20:.1f} MiB"
    return f"{size / GIB:.1f} GiB" if size < 1000 * GIB else f"{size / GIB:,.0f} GiB"


def duration(seconds: float) -> str:
    """Seconds to read, as exactly as they are known."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _sensible(needs: Sequence[Need]) -> Sequence[Need]:
    """A text encoder that is to go again is read once, so to have all of it at a time gains
    nothing: its blocks pass by."""
    return [need for need in needs if (need.stage, need.mode) != ("text", "balanced")]


def _fastest(needs: Sequence[Need], room: Room) -> Need:
    """The first that has room; for lack of any, the one that takes least."""
    easy = [need for need in needs if room.has_easily(need)]
    possible = [need for need in needs if room.has(need)]
    if easy:
        return easy[0]
    return possible[-1] if possible else min(needs, key=lambda need: need.total)


def _less_headroom(free: int) -> int:
    headroom = min(_HEADROOM_MOST, max(_HEADROOM_LEAST, int(_HEADROOM_SHARE * free)))
    return max(0, free - headroom)
