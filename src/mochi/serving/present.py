"""Rows as clients see them: predictions, videos, files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import Response

from mochi.serving.jobs import Job
from mochi.serving.links import Links
from mochi.serving.store.files import StoredFile

VARIANTS = ("gif", "thumbnail", "last_frame", "spritesheet")
_VIDEO_STATUS = {
    "starting": "queued",
    "processing": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "canceled": "failed",
}


def as_json(body: Mapping[str, Any]) -> Response:
    """An answer as it is: FastAPI would check it against its model again, in another thread, which
    takes longer than all the rest of what clients ask most often."""
    return Response(json.dumps(body, separators=(",", ":")), media_type="application/json")


def moment(seconds: float | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def outputs(job: Job, base: str, links: Links) -> dict[str, Any]:
    """Signed addresses of what a job made; None while there is nothing."""
    if job.output_file is None or job.status != "succeeded":
        return {"output": None, "variants": None}
    made = {name: base + links.path(job.output_file, name) for name in VARIANTS}
    return {"output": base + links.path(job.output_file), "variants": made}


def prediction(job: Job, base: str, links: Links, *, waiting: bool = False) -> dict[str, Any]:
    """A job in the predictions dialect.

    Args:
        job: the row.
        base: the server's address, as its client reaches it.
        links: signs addresses.
        waiting: say `starting` though it runs: what the dialect's clients expect of an answer
            whose `Prefer: wait` ran out.
    """
    place = f"{base}/v1/predictions/{job.id}"
    status = "starting" if waiting and not job.ended else job.status
    return {
        "id": job.id,
        "model": job.model,
        "version": job.version,
        "status": status,
        "source": job.source,
        "batch": job.batch,
        "data_removed": False,
        "shared": job.shared,
        "input": dict(job.input),
        **outputs(job, base, links),
        "error": job.error,
        "logs": job.logs,
        "created_at": moment(job.created_at),
        "started_at": moment(job.started_at),
        "completed_at": moment(job.completed_at),
        "deadline": moment(job.deadline),
        "metrics": dict(job.metrics),
        "urls": {
            "get": place,
            "cancel": f"{place}/cancel",
            "stream": f"{place}/stream",
            "events": f"{place}/events",
            "web": f"{base}/p/{job.id}",
        },
    }


def shared(job: Job, base: str, links: Links) -> dict[str, Any]:
    """What anyone with the address of a shared prediction may see."""
    shown = ("id", "model", "version", "status", "input", "output", "variants")
    whole = prediction(job, base, links)
    return {name: whole[name] for name in (*shown, "created_at", "completed_at", "metrics")}


def video(job: Job, links: Links) -> dict[str, Any]:
    """A job in the videos dialect."""
    request, expires = job.request, links.gone_at(job.completed_at)
    error = None
    if job.status == "canceled":
        error = {"code": "canceled", "message": job.error or "it was cancelled"}
    elif job.error is not None:
        code = job.error.partition("]")[0].removeprefix("[")
        error = {"code": code, "message": job.error.partition("] ")[2] or job.error}
    return {
        "id": job.id,
        "object": "video",
        "model": job.model,
        "status": _VIDEO_STATUS[job.status],
        "progress": 100 if job.status == "succeeded" else _percent(job),
        "created_at": int(job.created_at),
        "completed_at": None if job.completed_at is None else int(job.completed_at),
        "expires_at": None if expires is None else int(expires),
        "size": f"{request['width']}x{request['height']}",
        "seconds": f"{request['frames'] / request.get('fps', 30):g}",
        "error": error,
        "prompt": request["prompt"],
        "remixed_from_video_id": job.extras.get("remixed_from"),
    }


def _percent(job: Job) -> int:
    return 0 if not job.steps else min(99, 95 * job.step // job.steps)


def stored_file(file: StoredFile, base: str, links: Links) -> dict[str, Any]:
    """A file in the predictions dialect."""
    return {
        "id": file.id,
        "name": file.name,
        "content_type": file.content_type,
        "size": file.size,
        "etag": file.sha256[:32],
        "checksums": {"sha256": file.sha256},
        "metadata": dict(file.metadata),
        "created_at": moment(file.created_at),
        "expires_at": moment(links.gone_at(file.created_at)),
        "urls": {"get": base + links.path(file.id)},
    }
