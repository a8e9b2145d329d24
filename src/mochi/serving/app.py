"""The application: routes, middleware, errors, and a description that is true."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

import mochi
from mochi.serving import problems
from mochi.serving.examples import PAGE
from mochi.serving.input_schema import input_schema
from mochi.serving.middleware import Guard, Observed
from mochi.serving.routes import files, models, pages, predictions, streams, trainings, videos
from mochi.serving.schemas import ProblemBody
from mochi.serving.services import Services


def make_app(services: Services) -> FastAPI:
    """The ASGI application over these services, which are started and closed by the caller."""
    app = FastAPI(
        title="Mochi", version=mochi.__version__, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.services = services
    problems.install(app)
    for module in (predictions, streams, models, files, videos, trainings, pages):
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
        _enumerate(document, app.state.services)
    assert app.openapi_schema is not None
    return app.openapi_schema


def _enumerate(document: dict[str, Any], services: Services) -> None:
    """Say by name what this server offers: its models, and the input of each."""
    schemas, names = document["components"]["schemas"], list(services.offers.names)
    for body in ("Creation", "BatchCreation", "EstimateOrder", "CountOrder"):
        version = schemas[body]["properties"]["version"]
        version |= {"examples": names, "description": f"One of {', '.join(names)}, or a version."}
    inputs = []
    for offer in services.offers.all():
        defaults, loras = offer.description.defaults, offer.entry.loras
        inputs.append(input_schema(defaults, services.settings, loras) | {"title": offer.name})
    schemas["Input"] = {"anyOf": inputs}
    one = {"$ref": "#/components/schemas/Input"}
    for body in ("Creation", "EstimateOrder"):
        schemas[body]["properties"]["input"] = one
    schemas["BatchCreation"]["properties"]["inputs"]["items"] = one
    post = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    for content in post.values():
        properties = content["schema"]["properties"]
        content["schema"] = {
            **content["schema"],
            "properties": {**properties, "model": {"type": "string", "enum": _spoken(names)}},
        }


def _spoken(names: list[str]) -> list[str]:
    """Names as the videos dialect may say them too: without their owner, the first one wins."""
    return list(dict.fromkeys([*names, *(name.partition("/")[2] for name in names)]))


def _hosts(host: str, public_url: str | None, allowed: tuple[str, ...]) -> list[str]:
    public = urlsplit(public_url).hostname if public_url else None
    return [name for name in (host, public, *allowed) if name]
