"""Models, versions, presets, times, estimates: what the server offers and what that takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse
from starlette.requests import Request

import mochi
from mochi.core.presets import PRESETS
from mochi.core.sizes import VideoSize
from mochi.serving import webhooks
from mochi.serving.auth import Base, Parts, Reader, identify
from mochi.serving.estimates import memory, place, price, runtime
from mochi.serving.examples import examples
from mochi.serving.input_schema import input_schema
from mochi.serving.offers import Offer
from mochi.serving.orders import check_safe
from mochi.serving.present import moment
from mochi.serving.problems import Problem, not_found
from mochi.serving.runner.protocol import RunFailedError, RunnerDiedError
from mochi.serving.schemas import (
    Account,
    CountOrder,
    Estimate,
    EstimateOrder,
    Hardware,
    Listing,
    Model,
    ModelPage,
    TokenCount,
    Version,
    VersionPage,
    problems,
)
from mochi.serving.services import Services

router = APIRouter(tags=["models"])
BATCH = 100


@router.get("/v1/models", response_model=ModelPage, responses=problems())
def models(parts: Parts, base: Base, who: Reader) -> Any:
    """Every model that may be named."""
    return {"results": [_model(parts, offer, base) for offer in parts.offers.all()]}


@router.get("/v1/models/{owner}/{name}", response_model=Model, responses=problems(404))
def model(owner: str, name: str, parts: Parts, base: Base, who: Reader) -> Any:
    """One model."""
    return _model(parts, parts.offers.get(f"{owner}/{name}"), base)


@router.get(
    "/v1/models/{owner}/{name}/versions", response_model=VersionPage, responses=problems(404)
)
def versions(owner: str, name: str, parts: Parts, who: Reader) -> Any:
    """Its weights; there is one version of each model on a server."""
    return {"results": [_version(parts, parts.offers.get(f"{owner}/{name}"))]}


@router.get(
    "/v1/models/{owner}/{name}/versions/{version_id}",
    response_model=Version,
    responses=problems(404),
)
def version(owner: str, name: str, version_id: str, parts: Parts, who: Reader) -> Any:
    """One version, with the schema of its input."""
    offer = parts.offers.get(f"{owner}/{name}")
    if offer.version != version_id:
        raise not_found("version")
    return _version(parts, offer)


@router.get("/v1/models/{owner}/{name}/examples", response_model=Listing, responses=problems(404))
def model_examples(owner: str, name: str, parts: Parts, base: Base, who: Reader) -> Any:
    """Predictions made with this model, outputs included."""
    return {"results": examples(parts.offers.get(f"{owner}/{name}"), base)}


@router.get(
    "/v1/models/{owner}/{name}/readme",
    response_class=PlainTextResponse,
    responses=problems(404) | {200: {"content": {"text/markdown": {}}}},
)
def readme(owner: str, name: str, parts: Parts, who: Reader) -> PlainTextResponse:
    """What the model is, in Markdown."""
    text = _readme(parts.offers.get(f"{owner}/{name}"))
    return PlainTextResponse(text, media_type="text/markdown; charset=utf-8")


@router.get("/v1/presets", response_model=Listing, responses=problems(404, 422))
def presets(
    parts: Parts, who: Reader, model: Annotated[str | None, Query(max_length=200)] = None
) -> Any:
    """Settings by name, with what they take at the model's own size; else at the first model's."""
    offer = parts.offers.resolve(model)
    return {"results": [_preset(parts, offer, name) for name in (None, *PRESETS)]}


def _preset(parts: Services, offer: Offer, name: str | None) -> dict[str, Any]:
    given = {"prompt": "any", "seed": 0} | ({} if name is None else {"preset": name})
    checked = offer.check(given, parts.settings)
    seconds = parts.runtimes.estimate(offer.name, checked.request)
    title = "The model's own settings" if name is None else name.capitalize()
    return {
        "name": name or "default",
        "title": title,
        "input": {key: value for key, value in given.items() if key == "preset"},
        "seconds": None if seconds is None else round(seconds["p50"], 4),
        "memory_bytes": memory(parts, offer.name, checked.request)["memory_bytes"],
        "price": price(parts, None if seconds is None else seconds["p50"]),
    }


@router.post("/v1/estimates", response_model=Estimate, responses=problems(404, 413, 422))
def estimate(body: EstimateOrder, parts: Parts, who: Reader) -> Any:
    """What a run would take; nothing is enqueued."""
    offer = parts.offers.resolve(body.version)
    checked = offer.check(body.input, parts.settings)
    check_safe(parts, who.account, checked, "input.")
    seconds = parts.runtimes.estimate(offer.name, checked.request)
    half = None if seconds is None else seconds["p50"]
    return {
        "input": checked.input,
        "notes": [note for note in checked.notes if not note.startswith("seed ")],
        "seconds": seconds,
        **memory(parts, offer.name, checked.request),
        "price": price(parts, half),
        "queue": place(parts, None, half),
    }


@router.get("/v1/runtimes", response_model=Listing, responses=problems())
def runtimes(parts: Parts, who: Reader) -> Any:
    """Measured times of this machine."""
    return {"results": [runtime(parts, measured) for measured in parts.runtimes.all()]}


@router.post("/v1/count-tokens", response_model=TokenCount, responses=problems(404, 413, 422))
def count_tokens(body: CountOrder, parts: Parts, who: Reader) -> Any:
    """How much of a prompt the model reads."""
    offer = parts.offers.resolve(body.version)
    runner = parts.runner()
    try:
        if runner is None:
            raise RunnerDiedError("no runner is up")
        body.prompt.encode()
        return runner.ask("tokens", model=offer.name, prompt=body.prompt)
    except UnicodeEncodeError:
        raise Problem(422, "prompt holds half a character") from None
    except (RunnerDiedError, RunFailedError) as error:
        raise Problem(503, str(error), headers={"Retry-After": "5"}) from None


@router.get("/v1/hardware", response_model=list[Hardware], responses=problems())
def hardware(parts: Parts, who: Reader) -> Any:
    """The devices."""
    names = dict.fromkeys(runner.state.device for runner in parts.runners)
    return [{"name": name, "sku": name} for name in names]


@router.get("/v1/account", response_model=Account, responses=problems())
def account(parts: Parts, who: Reader) -> Any:
    """Who asks, and what this token may take."""
    used = 0.0 if who.token is None else round(parts.usage.of(who.token), 3)
    return {
        "type": "user",
        "username": who.account,
        "name": who.account,
        "scopes": sorted(who.scopes),
        "allowance": {**asdict(who.allowance), "seconds_used": used},
    }


@router.get("/v1/webhooks/default/secret", responses=problems())
def webhook_secret(parts: Parts, who: Reader) -> dict[str, str]:
    """What webhooks are signed with."""
    return {"key": webhooks.secret_text(parts.webhook_secret)}


@router.get("/v1/server", responses=problems())
def server(request: Request, parts: Parts) -> dict[str, Any]:
    """How the server is. A stranger learns whether a token is needed, and no more."""
    if identify(request) is None:
        return {"version": mochi.__version__, "auth": True}
    counts, settings = parts.store.counts(), parts.settings
    return {
        "version": mochi.__version__,
        "auth": parts.tokens.needed,
        "queue": {
            "waiting": counts.get("starting", 0),
            "running": counts.get("processing", 0),
            "limit": settings.waiting_limit,
        },
        "runners": [_runner(runner.state) for runner in parts.runners],
        "trouble": next((it.trouble for it in parts.workers if it.trouble), None),
        "price_per_hour": settings.price_per_hour,
        "currency": settings.currency,
        "webhooks": bool(settings.webhook_hosts),
        "limits": {
            "prompt_tokens": 256,
            "frames": settings.max_frames,
            "height": settings.max_height,
            "width": settings.max_width,
            "upload_bytes": settings.upload_bytes,
            "batch": BATCH,
        },
    }


def _runner(state: Any) -> dict[str, Any]:
    shown = ("name", "device", "model", "state", "reason")
    return {name: getattr(state, name) for name in shown}


def _model(parts: Services, offer: Offer, base: str) -> dict[str, Any]:
    owner, _, name = offer.name.partition("/")
    shown = examples(offer, base)
    return {
        "owner": owner,
        "name": name,
        "url": f"{base}/",
        "description": f"Text to video: {offer.description.card_name}",
        "visibility": "private",
        "run_count": sum(len(it.seconds) for it in parts.runtimes.all() if it.model == offer.name),
        "licence": offer.description.licence,
        "latest_version": _version(parts, offer),
        "default_example": shown[0] if shown else None,
        "cover_image_url": None,
    }


def _version(parts: Services, offer: Offer) -> dict[str, Any]:
    schema = input_schema(offer.description.defaults, parts.settings, offer.entry.loras)
    output = {"type": "string", "format": "uri", "title": "Output"}
    document = {
        "openapi": "3.1.0",
        "info": {"title": offer.name, "version": mochi.__version__},
        "paths": {},
        "components": {"schemas": {"Input": schema, "Output": output}},
    }
    return {
        "id": offer.version,
        "created_at": moment(offer.created_at),
        "cog_version": f"mochi-{mochi.__version__}",
        "openapi_schema": document,
    }


def _readme(offer: Offer) -> str:
    defaults = offer.description.defaults
    size = VideoSize(defaults["frames"], defaults["height"], defaults["width"])
    licence = offer.description.licence or "see its files"
    return (
        f"# {offer.name}\n\nText to video with *{offer.description.card_name}*. "
        f"Without further words a video is {size} at {defaults['fps']} frames a second, made in "
        f"{defaults['steps']} steps.\n\nLicence: {licence}.\n"
    )
