"""Server-sent events: progress of our own, and the dialect's stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from mochi.serving.auth import Base, Parts, Reader
from mochi.serving.bell import JOBS, story_of
from mochi.serving.estimates import place
from mochi.serving.hearing import rings
from mochi.serving.jobs import Job
from mochi.serving.present import outputs
from mochi.serving.routes.predictions import find
from mochi.serving.schemas import problems
from mochi.serving.services import Services

router = APIRouter(tags=["progress"])
_TICK_SECONDS = 1.0
_TICKS_BETWEEN_LOOKS = 5
_TICKS_BETWEEN_SIGNS = 15
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_TYPE = "text/event-stream"
_STREAM: Any = {200: {"content": {_TYPE: {"schema": {"type": "string"}}}, "description": "Events."}}

LastId = Annotated[int, Header(alias="Last-Event-ID", ge=0, le=2**63 - 1)]


@router.get(
    "/v1/predictions/{job_id}/events",
    response_class=StreamingResponse,
    responses=problems(404, 422) | _STREAM,
)
def events(
    job_id: str,
    parts: Parts,
    base: Base,
    who: Reader,
    last: LastId = 0,
    last_event_id: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
    previews: Annotated[int, Query(ge=0, le=1)] = 1,
) -> StreamingResponse:
    """Queue position, phases, steps, previews, logs, output, from behind the last event heard."""
    job = find(parts, job_id, who)
    told = _Progress(parts, base, max(last, last_event_id), bool(previews))
    return StreamingResponse(_follow(parts, job, told), headers=_HEADERS, media_type=_TYPE)


@router.get(
    "/v1/predictions/{job_id}/stream",
    response_class=StreamingResponse,
    responses=problems(404, 422) | _STREAM,
)
def stream(
    job_id: str, parts: Parts, base: Base, who: Reader, last: LastId = 0
) -> StreamingResponse:
    """`output`, `logs`, `error` and `done`, as clients of the dialect expect."""
    job = find(parts, job_id, who)
    told = _Dialect(parts, base, last)
    return StreamingResponse(_follow(parts, job, told), headers=_HEADERS, media_type=_TYPE)


async def _follow(parts: Services, job: Job, told: _Progress | _Dialect) -> AsyncIterator[str]:
    """Say what is new, wait for a ring, and again, until the job has ended."""
    ticks = 0
    async with rings(parts.bus, job.id, story_of(job.id), JOBS) as rung:
        while True:
            rung.clear()
            # The row first: what was published before its end is then there to be read.
            found = await parts.errands.look(lambda: parts.store.get(job.id))
            if found is None:
                return
            for text in await parts.errands.look(partial(told.news, found)):
                ticks = 0
                yield text
            if found.ended:
                return
            for _ in range(_TICKS_BETWEEN_LOOKS):
                if parts.stopping.is_set():
                    return
                if await rung.within(_TICK_SECONDS):
                    break
                ticks += 1
                if ticks % _TICKS_BETWEEN_SIGNS == 0:
                    yield ": still here\n\n"


class _Progress:
    """Our own events, as text."""

    def __init__(self, parts: Services, base: str, last: int, previews: bool):
        self._parts = parts
        self._base = base
        self._last = last
        self._previews = previews
        self._queue: dict[str, Any] | None = None

    def news(self, job: Job) -> list[str]:
        """What was not said yet."""
        said = []
        for told in self._parts.bus.since(job.id, self._last, previews=self._previews):
            self._last = told.id
            said.append(_text(told.type, told.data, told.id))
        if job.status == "starting":
            where = place(self._parts, job.id)
            if where != self._queue:
                self._queue = where
                said.append(_text("queue", where))
        if job.ended:
            said += self._end(job)
        return said

    def _end(self, job: Job) -> list[str]:
        done = {"status": job.status, "error": job.error, "metrics": job.metrics}
        said = []
        made = outputs(job, self._base, self._parts.links)
        if made["output"] is not None:
            said.append(_text("output", made, self._last + 1))
        return [*said, _text("done", done, self._last + 2)]


class _Dialect:
    """The dialect's events, as text. An id is the number of characters of log that were said."""

    def __init__(self, parts: Services, base: str, last: int):
        self._parts = parts
        self._base = base
        self._said = last

    def news(self, job: Job) -> list[str]:
        """What was not said yet."""
        said = []
        if len(job.logs) > self._said:
            new, self._said = job.logs[self._said :], len(job.logs)
            said.append(_text("logs", new, self._said))
        if job.ended:
            made = outputs(job, self._base, self._parts.links)["output"]
            if made is not None:
                said.append(_text("output", made, self._said + 1))
            elif job.status == "failed":
                said.append(_text("error", {"detail": job.error}, self._said + 1))
            reason = {} if job.status == "succeeded" else {"reason": _REASONS[job.status]}
            said.append(_text("done", reason, self._said + 2))
        return said


_REASONS = {"failed": "error", "canceled": "canceled"}


def _text(event: str, data: Any, event_id: int | None = None) -> str:
    """One event; text goes as it is, everything else as a line of JSON."""
    body = data if isinstance(data, str) else json.dumps(data)
    lines = "".join(f"data: {line}\n" for line in body.split("\n"))
    number = "" if event_id is None else f"id: {event_id}\n"
    return f"{number}event: {event}\n{lines}\n"
