"""What a run will take, before it is enqueued: seconds, memory, money, a place in the queue."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mochi.serving.problems import invalid
from mochi.serving.runner.protocol import RunFailedError, RunnerDiedError
from mochi.serving.services import Services
from mochi.serving.store.runtimes import Runtime

_ASK_SECONDS = 3.0
_GIB = 2**30


def price(services: Services, seconds: float | None) -> dict[str, Any] | None:
    """What so many seconds cost, where a price is set."""
    per_hour = services.settings.price_per_hour
    if per_hour is None or seconds is None:
        return None
    amount = round(seconds / 3600 * per_hour, 6)
    return {"amount": amount, "currency": services.settings.currency}


def memory(services: Services, model: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes that a run takes and that an idle device has; None where no runner can say."""
    size = {name: request[name] for name in ("frames", "height", "width")}
    unknown = {"memory_bytes": None, "memory_available_bytes": None, "fits": None}
    runner = services.runner()
    if runner is None:
        return unknown
    try:
        answer = dict(runner.ask("memory", _ASK_SECONDS, model=model, **size))
    except (RunnerDiedError, RunFailedError):
        return unknown
    return answer | {"fits": answer["memory_bytes"] <= answer["memory_available_bytes"]}


def check_fits(services: Services, model: str, request: Mapping[str, Any], prefix: str) -> None:
    """Refuse what no device here can hold.

    Raises:
        Problem: 422.
    """
    found = memory(services, model, request)
    if found["fits"] is not False:
        return
    needs, has = (found[name] / _GIB for name in ("memory_bytes", "memory_available_bytes"))
    rule = f"needs about {needs:.1f} GiB of memory, and {has:.1f} are there; fewer frames need less"
    entry = {"type": "memory", "field": f"{prefix}num_frames", "description": rule}
    raise invalid([entry])


def place(services: Services, job_id: str | None, own: float | None = None) -> dict[str, Any]:
    """A job's place in the queue; without a job, the place of one that would be enqueued now.

    Args:
        services: the server's parts.
        job_id: of a job that waits.
        own: seconds that a new job takes, where they are known.
    """
    waiting = services.store.waiting()
    ids = [job.id for job in waiting]
    if job_id is None or job_id not in ids:
        ahead, of = len(ids), len(ids) + 1
    else:
        ahead, of = ids.index(job_id), len(ids)
        own = waiting[ahead].estimate_seconds
    before: list[float | None] = [job.estimate_seconds for job in waiting[:ahead]]
    return {"position": ahead + 1, "of": of, "eta_seconds": _eta(services, [*before, own])}


def _eta(services: Services, before: Sequence[float | None]) -> float | None:
    """Seconds until all of these are done, the last one at the end; None while one is unknown."""
    known = [seconds for seconds in before if seconds is not None]
    if len(known) < len(before):
        return None
    runners = max(1, len(services.runners))
    now, left = time.time(), 0.0
    for job in services.store.running():
        if job.estimate_seconds is not None and job.started_at is not None:
            left += max(0.0, job.estimate_seconds - (now - job.started_at))
    *others, own = known
    return round((left + sum(others)) / runners + own, 3)


def runtime(services: Services, measured: Runtime) -> dict[str, Any]:
    """Measured times as clients see them."""
    half = measured.percentile(0.5)
    return {
        "model": measured.model,
        "frames": measured.frames,
        "height": measured.height,
        "width": measured.width,
        "steps": measured.steps,
        "count": len(measured.seconds),
        "p10_seconds": round(measured.percentile(0.1), 4),
        "p50_seconds": round(half, 4),
        "p90_seconds": round(measured.percentile(0.9), 4),
        "price": price(services, half),
    }
