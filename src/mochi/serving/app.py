"""The application: routes, middleware, errors, and a description that is true."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

import mochi
from mochi.serving import problems
from mochi.serving.examples import PAGE
from mochi.serving.middleware import Guard, Observed
from mochi.serving.routes import files, models, pages, predictions, streams, videos
from mochi.serving.schemas import ProblemBody
from mochi.serving.services import Services


def make_app(services: Services) -> FastAPI:
    """The ASGI application over these services, which are started and closed by the caller."""
    app = FastAPI(
        title="Mochi", version=mochi.__version__, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.services = services
    problems.install(app)
    for module in (predictions, streams, models, files, videos, pages):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=PAGE, check_dir=False), name="static")
    app.add_api_route("/openapi.json", lambda: describe(app), include_in_schema=False)
    settings = services.settings
    app.add_middleware(
        Guard,
        hosts=_hosts(settings.host, settings.public_url, settings.allowed_hosts),
        tokens=services.tokens,
        upload_bytes=settings.upload_bytes,
    )
    app.add_middleware(Observed, metrics=services.metrics)
    return app


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = app.openapi()
        schemas = document["components"]["schemas"]
        shape = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= shape.pop("$defs", {}) | {"ProblemBody": shape}
    assert app.openapi_schema is not None
    return app.openapi_schema


def _hosts(host: str, public_url: str | None, allowed: tuple[str, ...]) -> list[str]:
    public = urlsplit(public_url).hostname if public_url else None
    return [name for name in (host, public, *allowed) if name]
