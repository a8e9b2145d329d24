"""The ranks of a pipeline: started when they are first needed, ended with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
from torch._C._distributed_c10d import Store, TCPStore

import mochi
from mochi.parallel.crew import Crew, Ranks
from mochi.parallel.links import Link, link_between
from mochi.parallel.local import LocalRanks
from mochi.parallel.meeting import COME_SECONDS, LOOPBACK, Meeting, hold_meeting
from mochi.parallel.neighbours import Neighbours, reached
from mochi.parallel.places import Place
from mochi.pipeline.order import Opening

PROGRAM = "mochi.pipeline.rank"

Launch = Callable[[Mapping[int, Opening]], Ranks]
"""Starts ranks, each with its opening."""


def launch_here(openings: Mapping[int, Opening]) -> Ranks:
    """Ranks as processes of this machine."""
    return LocalRanks(PROGRAM, {rank: {"opening": each} for rank, each in openings.items()})


@dataclass(frozen=True)
class Layout:
    """Where the ranks are.

    Attributes:
        devices: of the ranks that this process looks after, by their numbers.
        size: all ranks, those elsewhere too.
        machines: how many machines.
        together: ranks that share one machine's memory.
        host: where the ranks can meet; this machine's address as the others see it.
        place: where somebody else has started this process.
        launch: starts the ranks.
        come_seconds: how long ranks wait for each other.
    """

    devices: Mapping[int, str]
    size: int
    machines: int = 1
    together: int = 1
    host: str = LOOPBACK
    place: Place | None = None
    launch: Launch = launch_here
    come_seconds: float = COME_SECONDS

    @classmethod
    def here(cls, devices: Sequence[torch.device]) -> Layout:
        """All ranks on this machine."""
        count = len(devices)
        return cls({i: str(device) for i, device in enumerate(devices)}, count, together=count)

    @classmethod
    def at(cls, place: Place, device: torch.device, come_seconds: float = COME_SECONDS) -> Layout:
        """One rank here, the others with supervisors of their own."""
        devices = {place.rank: str(device)}
        return cls(
            devices,
            place.size,
            place.machines,
            place.local_size,
            place.host,
            place,
            come_seconds=come_seconds,
        )

    @property
    def leads(self) -> bool:
        """Whether the first rank is here, and with it the output."""
        return 0 in self.devices

    @cached_property
    def link(self) -> Link:
        """What lies between the devices of a machine."""
        kind, _, first = next(iter(self.devices.values())).partition(":")
        start = int(first or 0) if self.place is None else 0
        return link_between(kind, range(start, start + self.together))


class Team:
    """Starts ranks and keeps them.

    Attributes:
        layout: where they are.
        rooms: free bytes of each rank's device and host, as they were at its start.
    """

    def __init__(self, layout: Layout, opening: Callable[..., Opening]):
        self.layout = layout
        self.rooms: dict[int, tuple[int, int]] = {}
        self._opening = opening
        self._crew: Crew | None = None
        self._store: TCPStore | None = None
        self._talk: Store | None = None

    def crew(self) -> Crew:
        """The ranks, ready; those that were ended are started anew.

        Raises:
            RankError: they cannot be started, or do not find each other.
            WeightsError: one of them cannot use the model.
        """
        if self._crew is None or self._crew.over:
            self.close()
            self._crew = self._started()
        return self._crew

    def agreed(self, name: str, value: str) -> str:
        """What the first rank's supervisor says; the others have it from there.

        Raises:
            RankError: it says nothing.
        """
        if self.layout.leads and len(self.layout.devices) == self.layout.size:
            return value
        self.crew()
        assert self._talk is not None
        if self.layout.leads:
            self._talk.set(name, value)
        with reached():
            self._talk.wait([name], timedelta(seconds=self.layout.come_seconds))
            return self._talk.get(name).decode()

    def close(self) -> None:
        """End all ranks."""
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.end()
        self._store = None
        self.rooms = {}

    def _started(self) -> Crew:
        layout = self.layout
        meeting = self._meeting()
        neighbours = None
        if len(layout.devices) < layout.size:
            self._talk = meeting.join(layout.come_seconds)
            neighbours = Neighbours(self._talk, list(layout.devices), layout.size)
        crew = Crew(layout.launch(self._openings(meeting)), neighbours)
        answers = crew.collect("ready")
        self.rooms = {rank: answer["room"] for rank, answer in answers.items()}
        return crew

    def _openings(self, meeting: Meeting) -> dict[int, Opening]:
        layout = self.layout
        threads = max(1, torch.get_num_threads() // layout.together)
        shared: dict[str, Any] = {
            "size": layout.size,
            "meeting": meeting,
            "together": layout.together,
            "threads": threads,
            "come_seconds": layout.come_seconds,
            "version": mochi.__version__,
        }
        first = min(layout.devices)
        return {
            rank: self._opening(rank=rank, device=device, reports=rank == first, **shared)
            for rank, device in layout.devices.items()
        }

    def _meeting(self) -> Meeting:
        place = self.layout.place
        if place is None:
            self._store, meeting = hold_meeting(self.layout.host)
            return meeting
        if place.hosts and self._store is None:
            self._store, _ = hold_meeting(place.host, place.port)
        plain = Meeting(place.host, place.port, place.run)
        turn = plain.join(self.layout.come_seconds).add(f"started/{place.rank}", 1)
        return Meeting(place.host, place.port, f"{place.run}/{turn}")
