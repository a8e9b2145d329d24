"""Plans as a table: what each stage takes in each memory mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mochi.memory.modes import AUTO

if TYPE_CHECKING:
    from mochi.memory.need import Need
    from mochi.memory.plan import Plan

_COLUMNS = ("weights", "working", "host", "of files", "time")


def plan_lines(name: str, plans: Mapping[str, Plan]) -> Iterator[str]:
    """The table of one model.

    Args:
        name: of the model.
        plans: by the mode that was asked for, `auto` among them.
    """
    chosen = plans[AUTO]
    yield f"plan     {name}: {chosen.size} on {chosen.device}"
    yield _row("", "", _COLUMNS)
    for mode, plan in plans.items():
        if mode == AUTO:
            continue
        for need in plan.needs:
            yield _row(mode, need.stage, _cells(need, plan))
            mode = ""
        yield _row("", "at most", _totals(plan)) + ("" if plan.fits else "  does not fit")
    verdict = "" if chosen.fits else "; but this does not fit"
    yield f"auto     {chosen.announcement.removeprefix('memory: ')}{verdict}"


def _cells(need: Need, plan: Plan) -> tuple[str, ...]:
    host = "" if plan.room.on_cpu else _size(need.host)
    time = "" if need.seconds is None else _time(need.seconds)
    return _size(need.weights), _size(need.working), host, _size(need.mapped), time


def _totals(plan: Plan) -> tuple[str, ...]:
    host = "" if plan.room.on_cpu else _size(plan.host_bytes)
    time = "" if plan.seconds is None else _time(plan.seconds)
    taken = plan.host_bytes if plan.room.on_cpu else plan.device_bytes
    return "", _size(taken), host, _size(plan.mapped_bytes), time


def _row(mode: str, stage: str, cells: tuple[str, ...]) -> str:
    return f"{mode:9}{stage:9}" + "".join(f"{cell:>11}" for cell in cells)


def _size(size: int) -> str:
    from mochi.memory.plan import gib

    return gib(size) if size else "-"


def _time(seconds: float) -> str:
    from mochi.memory.plan import duration

    return duration(seconds)
