"""How long videos took on this machine, and so how long the next will take."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mochi.serving.jobs import Job
from mochi.serving.store.database import Database
from mochi.serving.store.tables import runtimes

_REMEMBERED = 500
_LATE = 64
"""So many ids are looked at again: of two transactions the one with the lower may end later."""

_FIELDS = ("model", "frames", "height", "width", "steps")
_r = runtimes.c
_BEHIND = (
    sa.select(_r.id, *(_r[name] for name in _FIELDS), _r.seconds)
    .where(_r.id > sa.bindparam("behind"))
    .order_by(_r.id.desc())
    .limit(_REMEMBERED)
)


@dataclass(frozen=True)
class Runtime:
    """Seconds of the runs of one model, size and number of steps."""

    model: str
    frames: int
    height: int
    width: int
    steps: int
    seconds: Sequence[float]

    def percentile(self, share: float) -> float:
        """The seconds that this share of runs stayed within."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Runtimes:
    """The table of measured times; what was read once is not read again. Thread safe."""

    def __init__(self, database: Database):
        self._database = database
        self._lock = threading.Lock()
        self._latest: dict[int, tuple[tuple[Any, ...], float]] = {}
        self._grouped: list[Runtime] = []

    def all(self) -> list[Runtime]:
        """The latest runs, by model, size and steps."""
        with self._lock:
            behind = max(self._latest, default=0) - _LATE
            with self._database.single() as connection:
                rows = connection.execute(_BEHIND, {"behind": behind}).all()
            new = {
                row.id: (tuple(row[1:-1]), row[-1]) for row in rows if row.id not in self._latest
            }
            if new:
                known = self._latest | new
                self._latest = {number: known[number] for number in sorted(known)[-_REMEMBERED:]}
                self._grouped = _grouped(self._latest.values())
            return list(self._grouped)

    def estimate(self, model: str, request: Mapping[str, Any]) -> dict[str, float] | None:
        """Seconds that such a run takes, half the time and nine times of ten; None while unknown.

        From runs of the same size and steps, else from all of the model's, in proportion to pixels
        and steps.
        """
        known = [runtime for runtime in self.all() if runtime.model == model]
        same = [
            runtime
            for runtime in known
            if all(getattr(runtime, name) == request[name] for name in _FIELDS[1:])
        ]
        if same:
            return {"p50": same[0].percentile(0.5), "p90": same[0].percentile(0.9)}
        if not known:
            return None
        work = _work(request)
        scaled = [median(runtime.seconds) * work / _work(vars(runtime)) for runtime in known]
        return {"p50": median(scaled), "p90": 1.5 * max(scaled)}


def _grouped(runs: Iterable[tuple[tuple[Any, ...], float]]) -> list[Runtime]:
    groups: dict[tuple[Any, ...], list[float]] = {}
    for group, seconds in runs:
        groups.setdefault(group, []).append(seconds)
    return [
        Runtime(**dict(zip(_FIELDS, group, strict=True)), seconds=seconds)
        for group, seconds in sorted(groups.items())
    ]


def remember(connection: Connection, job: Job, now: float) -> None:
    """How long a finished job ran; of a batch, its share of the time."""
    values = {name: job.request[name] for name in _FIELDS[1:]}
    values |= {
        "model": job.model,
        "version": job.version,
        "seconds": job.metrics["predict_time"] / job.metrics.get("together", 1),
        "created_at": now,
    }
    connection.execute(sa.insert(runtimes), values)


def _work(request: Mapping[str, Any]) -> float:
    pixels = request["frames"] * request["height"] * request["width"]
    return float(pixels * (request["steps"] + 2))  # text and decoding weigh about two steps
