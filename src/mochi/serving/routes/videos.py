"""The videos dialect over the same jobs."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from mochi.serving.auth import Base, Maker, Parts, Reader
from mochi.serving.bell import JOBS
from mochi.serving.inputs import FIELDS, LORAS, MAX_FPS, snap_frames
from mochi.serving.jobs import Job
from mochi.serving.orders import Order, enqueue
from mochi.serving.present import as_json, video
from mochi.serving.problems import Problem, invalid, not_found
from mochi.serving.routes.files import content_of
from mochi.serving.schemas import Strict, Video, VideoDeleted, VideoPage, video_problems
from mochi.serving.services import Services
from mochi.serving.store.tokens import Identity

router = APIRouter(tags=["videos"])
LONGEST_FRAMES = 163
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_OWN = ("prompt", "model", "seconds", "size")
_FLOATS = ("guidance_scale", "threshold")
_TEXTS = ("prompt", "negative_prompt", "preset", "solver", "step_cache")

_field = {"type": "string"}
_BODY: dict[str, Any] = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": _field,
        "model": _field,
        "seconds": {"anyOf": [_field, {"type": "number"}]},
        "size": {"type": "string", "pattern": "^[0-9]+x[0-9]+$"},
    },
}
_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _BODY},
            "application/json": {"schema": _BODY},
        },
    }
}


class Remix(Strict):
    """Body of a remix."""

    prompt: str


@router.post(
    "/v1/videos",
    response_model=Video,
    responses=video_problems(404, 413, 415, 422),
    openapi_extra=_OPENAPI,
)
async def create(request: Request, parts: Parts, base: Base, who: Maker) -> Any:
    """Enqueue a video."""
    fields = await _fields(request)
    model = fields.pop("model", None)
    if model is not None and not isinstance(model, str):
        raise invalid([_wrong("model", "is not text")])
    job = await parts.errands.order(
        lambda: _enqueue(parts, request, who, base, model, fields, fields, extras={})
    )
    return video(job, parts.links)


@router.get("/v1/videos", response_model=VideoPage, responses=video_problems(404, 422))
def page(
    parts: Parts,
    who: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Any:
    """The account's videos."""
    last = None if after is None else _find(parts, after, who).seq
    newest_first = order == "desc"
    jobs = parts.store.videos(who.account, limit + 1, last, newest_first=newest_first)
    shown = jobs[:limit]
    return {
        "object": "list",
        "data": [video(job, parts.links) for job in shown],
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": len(jobs) > limit,
    }


@router.get("/v1/videos/{job_id}", response_model=Video, responses=video_problems(404))
async def get(job_id: str, parts: Parts, who: Reader) -> Any:
    """One video."""
    job = await parts.errands.look(lambda: _find(parts, job_id, who))
    return as_json(video(job, parts.links))


@router.delete("/v1/videos/{job_id}", response_model=VideoDeleted, responses=video_problems(404))
def delete(job_id: str, parts: Parts, who: Maker) -> Any:
    """Remove a video; one that waits or runs is cancelled first."""
    _find(parts, job_id, who)
    if parts.store.cancel(job_id, who.account):
        parts.bus.ring(JOBS)
    parts.remove(_find(parts, job_id, who))  # it may have ended by itself since the first look
    parts.audit.add(who.account, "deleted", job_id)
    parts.bus.ring(job_id)
    return {"id": job_id, "object": "video.deleted", "deleted": True}


@router.get(
    "/v1/videos/{job_id}/content",
    response_class=Response,
    responses=video_problems(404, 409, 422)
    | {200: {"description": "The bytes.", "content": {"video/mp4": {}, "image/png": {}}}},
)
def content(
    job_id: str,
    request: Request,
    parts: Parts,
    who: Reader,
    variant: Literal["video", "thumbnail", "spritesheet"] = "video",
) -> Response:
    """The video, or a picture of it."""
    job = _find(parts, job_id, who)
    file = parts.files.get(job.output_file) if job.output_file else None
    if file is None:
        raise Problem(409, "there is no content: the video is not completed", code="not_ready")
    return content_of(request, parts, file, None if variant == "video" else variant)


@router.post(
    "/v1/videos/{job_id}/remix", response_model=Video, responses=video_problems(404, 413, 422)
)
def remix(job_id: str, body: Remix, request: Request, parts: Parts, base: Base, who: Maker) -> Any:
    """A new video with another prompt, and everything else as in that one."""
    old = _find(parts, job_id, who)
    given = {**old.input, "prompt": body.prompt}
    sent = [job_id, body.prompt]
    extras = {"remixed_from": job_id}
    job = _enqueue(parts, request, who, base, old.model, given, sent, extras=extras)
    return video(job, parts.links)


def _enqueue(
    parts: Services,
    request: Request,
    who: Identity,
    base: str,
    model: str | None,
    given: dict[str, Any],
    sent: object,
    *,
    extras: dict[str, Any],
) -> Job:
    known = model if model is None or "/" in model else parts.offers.by_short_name(model)
    made = _input(parts, known, given)
    order = Order(
        who=who,
        version=known,
        headers=request.headers,
        body=[request.url.path, model, sent],
        base=base,
        source="videos",
        extras=extras,
    )
    (job, *_), _ = enqueue(parts, order, [made])
    return job


def _input(parts: Services, model: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """`seconds` and `size` in the other dialect's words."""
    made = {name: value for name, value in given.items() if name not in ("seconds", "size")}
    defaults = parts.offers.resolve(model).description.defaults
    if (size := given.get("size")) is not None:
        match = _SIZE.fullmatch(str(size))
        if match is None:
            raise invalid([_wrong("size", "is not WIDTHxHEIGHT, such as 848x480")])
        made |= {"width": int(match[1]), "height": int(match[2])}
    if (seconds := given.get("seconds")) is not None:
        fps = made.get("fps", defaults["fps"])
        if isinstance(fps, bool) or not isinstance(fps, int) or not 1 <= fps <= MAX_FPS:
            raise invalid([_wrong("fps", f"must be 1 to {MAX_FPS}")])
        limit = min(LONGEST_FRAMES, parts.settings.max_frames)
        made["num_frames"] = snap_frames(_frames(seconds, fps, limit), limit)
    return made


def _frames(seconds: object, fps: int, limit: int) -> int:
    try:
        number = float(str(seconds))
    except ValueError:
        number = -1.0
    if not 0 < number * fps <= limit + fps:
        longest = limit / fps
        raise invalid([_wrong("seconds", f"must be more than 0 and at most {longest:.2f}")])
    return max(1, min(limit, round(number * fps)))


async def _fields(request: Request) -> dict[str, Any]:
    """The fields of a multipart or JSON body; numbers in parts are numbers again."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise Problem(400, "the body is no JSON") from None
        if not isinstance(body, dict):
            raise invalid([_wrong("body", "is no JSON object")])
        return body
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise Problem(415, "send multipart/form-data or application/json")
    async with request.form(max_files=1, max_fields=50) as form:
        fields = {name: _part(name, value) for name, value in form.multi_items()}
        if LORAS in form:
            fields[LORAS] = [_part(LORAS, value) for value in form.getlist(LORAS)]
        return fields


def _part(name: str, value: str | UploadFile) -> Any:
    if isinstance(value, UploadFile):
        raise invalid([_wrong(name, "is a file: pictures are not taken")])
    if name in _OWN or name in _TEXTS or name not in FIELDS:
        return value
    try:
        return float(value) if name in _FLOATS else int(value)
    except ValueError:
        raise invalid([_wrong(name, "is not a number")]) from None


def _find(parts: Services, job_id: str, who: Identity) -> Job:
    job = parts.store.get(job_id, who.account)
    if job is None:
        raise not_found("video")
    return job


def _wrong(name: str, description: str) -> dict[str, str]:
    return {"type": "value", "field": f"input.{name}", "description": description}
