"""The playground, and what machines ask: health, readiness, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from mochi.core.errors import MochiError
from mochi.serving.auth import Parts, Watcher
from mochi.serving.examples import PAGE
from mochi.serving.problems import not_found
from mochi.serving.schemas import problems

router = APIRouter()


@router.get("/", include_in_schema=False)
def page() -> FileResponse:
    """The playground."""
    return _page()


@router.get("/p/{job_id}", include_in_schema=False)
def shared_page(job_id: str) -> FileResponse:
    """The same page, which asks for the prediction in its own address."""
    return _page()


def _page() -> FileResponse:
    path = PAGE / "index.html"
    if not path.is_file():
        raise not_found("page: this package was built without one")
    return FileResponse(path, headers={"Cache-Control": "no-cache"})


@router.get("/healthz", tags=["probes"])
def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/readyz", tags=["probes"], responses={503: {"description": "Not ready."}})
def readyz(parts: Parts) -> JSONResponse:
    """Whether it can take jobs and make videos."""
    checks: dict[str, Any] = {}
    for name, look in (("database", parts.store.counts), ("blobs", parts.blobs.check)):
        try:
            look()
            checks[name] = "ok"
        except MochiError as error:
            checks[name] = str(error)
    states = [runner.state for runner in parts.runners]
    up = any(state.state in ("idle", "busy") for state in states)
    checks["runner"] = "ok" if up else "; ".join(state.reason or state.state for state in states)
    ready = all(found == "ok" for found in checks.values()) and not parts.stopping.is_set()
    return JSONResponse({"ready": ready, "checks": checks}, 200 if ready else 503)


@router.get("/metrics", tags=["probes"], response_class=Response, responses=problems())
def metrics(parts: Parts, who: Watcher) -> Response:
    """Counters, for Prometheus."""
    return Response(parts.metrics.text(), media_type=CONTENT_TYPE_LATEST)
