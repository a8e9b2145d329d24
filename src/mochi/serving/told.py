"""What a server tells of a job, as its client reads it and passes it on."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mochi.core.events import (
    Event,
    FramesDone,
    Notice,
    OnEvent,
    PhaseEnded,
    PhaseStarted,
    StepDone,
)


@dataclass(frozen=True)
class Told:
    """What a server tells of a job: `queue`, `phase`, `step`, `frames`, `preview`, `log`, `retry`,
    `output` or `done`, with the data that docs/serving.md lists."""

    type: str
    data: Mapping[str, Any]

    @property
    def preview(self) -> bytes:
        """The PNG of a `preview`."""
        return base64.b64decode(self.data["data"])


def parse(lines: Iterator[str]) -> Iterator[tuple[str, Told]]:
    """Server-sent events, each with its id."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield fields.get("id", ""), Told(fields.get("event", ""), json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}  # a comment: the server is still there


class Relay:
    """A server's events as those of `mochi.core.events`."""

    def __init__(self, on_event: OnEvent):
        self._on_event = on_event
        self._phase: Any = None
        self._began = time.monotonic()
        self._told = ""

    def tell(self, told: Told) -> None:
        """Pass it on."""
        for event in self._events(told):
            self._on_event(event)

    def _events(self, told: Told) -> Iterator[Event]:
        data, now = told.data, time.monotonic()
        if told.type in ("phase", "done") and self._phase is not None:
            yield PhaseEnded(self._phase, now - self._began)
            self._phase = None
        if told.type == "phase":
            self._phase, self._began = data["phase"], now
            yield PhaseStarted(self._phase, data["total"])
        elif told.type == "step":
            each, step = data["seconds_per_step"], data["step"]
            eta = data["eta_seconds"]
            yield StepDone(step, data["steps"], float("nan"), each, step * each, eta)
        elif told.type == "frames":
            yield FramesDone(data["frames"], data["total"])
        elif told.type == "queue":
            yield from self._once(f"waiting: {data['position']} of {data['of']}")
        elif told.type == "log":
            yield Notice(data["line"])
        elif told.type == "retry":
            yield Notice(f"the server tries again: {data['reason']}")

    def _once(self, message: str) -> Iterator[Event]:
        if message != self._told:
            self._told = message
            yield Notice(message)
