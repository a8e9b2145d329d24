"""The predictions dialect: create, look, list, cancel, delete, share."""

from __future__ import annotations

import asyncio
import base64
import binascii
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from mochi.serving.auth import Base, Maker, Parts, Reader
from mochi.serving.bell import JOBS
from mochi.serving.hearing import rings
from mochi.serving.jobs import Job
from mochi.serving.orders import Order, enqueue, wait_seconds
from mochi.serving.present import as_json, prediction, shared
from mochi.serving.problems import Problem, invalid, not_found
from mochi.serving.schemas import (
    Batch,
    BatchCreation,
    Creation,
    Prediction,
    PredictionPage,
    SharedPrediction,
    problems,
)
from mochi.serving.services import Services
from mochi.serving.store.tokens import Identity

router = APIRouter(tags=["predictions"])
PAGE = 100
_LOOK_SECONDS = 2.0
_REPLAYED = "Idempotent-Replayed"


@router.post(
    "/v1/predictions",
    status_code=201,
    response_model=Prediction,
    responses=problems(404, 413, 422) | {202: {"model": Prediction, "description": "Not yet."}},
)
async def create(
    request: Request, response: Response, body: Creation, parts: Parts, base: Base, who: Maker
) -> Any:
    """Enqueue one prediction."""
    if body.version is not None and body.model is not None:
        raise invalid([_field("model", "comes beside version; one of them is enough")])
    return await _create(request, response, body, body.version or body.model, parts, base, who)


@router.post(
    "/v1/models/{owner}/{name}/predictions",
    status_code=201,
    response_model=Prediction,
    responses=problems(404, 413, 422) | {202: {"model": Prediction, "description": "Not yet."}},
)
async def create_for_model(
    owner: str,
    name: str,
    request: Request,
    response: Response,
    body: Creation,
    parts: Parts,
    base: Base,
    who: Maker,
) -> Any:
    """Enqueue one prediction of the model in the address."""
    if body.version is not None or body.model is not None:
        raise invalid([_field("version", "is said by the address already")])
    return await _create(request, response, body, f"{owner}/{name}", parts, base, who)


async def _create(
    request: Request,
    response: Response,
    body: Creation,
    version: str | None,
    parts: Services,
    base: str,
    who: Identity,
) -> dict[str, Any]:
    seconds = wait_seconds(request.headers)
    order = _order(request, body, version, base, who)
    (job, *_), known = await parts.errands.order(lambda: enqueue(parts, order, [body.input]))
    if known:
        response.headers[_REPLAYED] = "true"
    if seconds is not None:
        job = await ended_within(parts, job, seconds)
        response.headers["Preference-Applied"] = f"wait={seconds:g}"
    response.status_code = 201 if job.ended else 202
    response.headers["Location"] = f"{base}/v1/predictions/{job.id}"
    return prediction(job, base, parts.links, waiting=True)


@router.post(
    "/v1/predictions/batch",
    status_code=202,
    response_model=Batch,
    responses=problems(404, 413, 422),
)
def create_batch(
    request: Request, response: Response, body: BatchCreation, parts: Parts, base: Base, who: Maker
) -> Any:
    """Enqueue many predictions, all or nothing."""
    order = _order(request, body, body.version or body.model, base, who)
    jobs, known = enqueue(parts, order, body.inputs, batch=True)
    if known:
        response.headers[_REPLAYED] = "true"
    made = [prediction(job, base, parts.links) for job in jobs]
    return {"batch": jobs[0].batch, "predictions": made}


def _order(
    request: Request,
    body: Creation | BatchCreation,
    version: str | None,
    base: str,
    who: Identity,
) -> Order:
    return Order(
        who=who,
        version=version,
        headers=request.headers,
        body=[request.url.path, body.model_dump()],
        base=base,
        webhook=body.webhook,
        webhook_events=body.webhook_events_filter,
    )


async def ended_within(parts: Services, job: Job, seconds: float) -> Job:
    """The job at its end, or as it is after so many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    async with rings(parts.bus, job.id) as rung:
        while not job.ended and (left := end - loop.time()) > 0 and not parts.stopping.is_set():
            rung.clear()
            found = await parts.errands.look(partial(parts.store.get, job.id))
            if found is None:
                raise not_found()
            job = found
            if not job.ended:
                await rung.within(min(left, _LOOK_SECONDS))
    return job


@router.get("/v1/predictions", response_model=PredictionPage, responses=problems(422))
def page(
    parts: Parts,
    base: Base,
    who: Reader,
    cursor: str | None = None,
    batch: Annotated[str | None, Query(max_length=26)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
) -> Any:
    """The account's predictions, newest first."""
    before = decode_cursor(cursor)
    jobs = parts.store.page(who.account, limit + 1, before, batch)
    more = f"&limit={limit}" if limit != PAGE else ""
    more += f"&batch={batch}" if batch else ""
    return {
        "next": next_page(f"{base}/v1/predictions", [job.seq for job in jobs], limit, more),
        "previous": None,
        "results": [prediction(job, base, parts.links) for job in jobs[:limit]],
    }


@router.get("/v1/predictions/{job_id}", response_model=Prediction, responses=problems(404))
async def get(job_id: str, parts: Parts, base: Base, who: Reader) -> Any:
    """One prediction."""
    job = await parts.errands.look(lambda: find(parts, job_id, who))
    return as_json(prediction(job, base, parts.links))


@router.post("/v1/predictions/{job_id}/cancel", response_model=Prediction, responses=problems(404))
def cancel(job_id: str, parts: Parts, base: Base, who: Maker) -> Any:
    """End it now; one that has ended stays as it is."""
    find(parts, job_id, who)
    if parts.store.cancel(job_id, who.account):
        parts.audit.add(who.account, "canceled", job_id)
        parts.bus.ring(job_id)
        parts.bus.ring(JOBS)
    return prediction(find(parts, job_id, who), base, parts.links)


@router.delete("/v1/predictions/{job_id}", status_code=204, responses=problems(404, 409))
def delete(job_id: str, parts: Parts, who: Maker) -> None:
    """Remove it, and every copy of what it made."""
    if not parts.remove(find(parts, job_id, who)):
        raise Problem(409, "it has not ended; cancel it first")
    parts.audit.add(who.account, "deleted", job_id)
    parts.bus.ring(job_id)


@router.put("/v1/predictions/{job_id}/share", responses=problems(404))
def share(job_id: str, parts: Parts, base: Base, who: Maker) -> dict[str, str]:
    """Let anyone with the address see it."""
    if not parts.store.set_shared(job_id, who.account, True):
        raise not_found()
    return {"url": f"{base}/p/{job_id}"}


@router.delete("/v1/predictions/{job_id}/share", status_code=204, responses=problems(404))
def unshare(job_id: str, parts: Parts, who: Maker) -> None:
    """Let nobody else see it any more."""
    if not parts.store.set_shared(job_id, who.account, False):
        raise not_found()


@router.get("/v1/shared/{job_id}", response_model=SharedPrediction, responses=problems(404))
def get_shared(job_id: str, parts: Parts, base: Base) -> Any:
    """A prediction that its owner shares."""
    job = parts.store.get(job_id)
    if job is None or not job.shared:
        raise not_found()
    return shared(job, base, parts.links)


def find(parts: Services, job_id: str, who: Identity) -> Job:
    """A job of this account; raises Problem 404."""
    job = parts.store.get(job_id, who.account)
    if job is None:
        raise not_found()
    return job


def next_page(address: str, seqs: list[int], limit: int, more: str = "") -> str | None:
    """The address of the next page, where there is one."""
    if len(seqs) <= limit:
        return None
    cursor = base64.urlsafe_b64encode(f"{seqs[limit - 1]}".encode()).decode().rstrip("=")
    return f"{address}?cursor={cursor}{more}"


def decode_cursor(cursor: str | None) -> int | None:
    """The place that `next_page` encoded; raises Problem 400."""
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if not text.isdecimal() or len(text) > 18:
        raise Problem(400, "the cursor is none of ours; take it from `next`")
    return int(text)


def _field(name: str, description: str) -> dict[str, str]:
    return {"type": "value", "field": name, "description": description}
