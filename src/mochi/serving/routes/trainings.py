"""Trainings: an upload of clips becomes an adapter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field, StringConstraints

from mochi.core.errors import RequestError
from mochi.core.sizes import VideoSize
from mochi.serving.auth import Base, Maker, Parts, Reader
from mochi.serving.jobs import Status, new_id
from mochi.serving.offers import Offer
from mochi.serving.present import moment
from mochi.serving.problems import Problem, field_problem, invalid, not_found
from mochi.serving.routes.predictions import PAGE, decode_cursor, next_page
from mochi.serving.schemas import Page, problems
from mochi.serving.services import Services
from mochi.serving.store.files import StoredFile
from mochi.serving.trainings.book import Training
from mochi.serving.trainings.trainers import Trainers

router = APIRouter(tags=["trainings"])
_DESTINATION = r"^[A-Za-z0-9][\w.-]{0,62}/[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
_FILE = re.compile(r"(?:/v1/files/)?([a-z2-7]{26})(?:/download)?(?:\?.*)?")
_FLAVOURS = {
    "original": "adapter.safetensors",
    "comfy": "adapter-comfyui.safetensors",
    "diffusers": "pytorch_lora_weights.safetensors",
}
_STEPS = 500
_ELSEWHERE = ("dit", "vae", "text_encoder", "tokenizer")
Caption = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]


class TrainingInput(BaseModel, extra="forbid"):
    """What a training is told; names as those of `mochi prepare` and `mochi finetune`."""

    clips: str = Field(description="An uploaded zip of clips and captions: its id or address.")
    steps: int | None = Field(None, ge=1, description="500, or as many as the server allows.")
    rank: int = Field(16, ge=1, le=256)
    alpha: float | None = Field(None, gt=0, le=1024, description="The rank, unless said.")
    layers: tuple[Literal["attention", "mlp", "modulation", "conditioning", "all"], ...] = Field(
        ("attention",), min_length=1, max_length=5
    )
    lr: float = Field(2e-4, gt=0, le=0.1)
    batch: int = Field(1, ge=1, le=64)
    caption_dropout: float = Field(0.1, ge=0, le=1)
    seed: int = Field(0, ge=0, le=2**31)
    frames: int | None = None
    width: int | None = None
    height: int | None = None
    scenes: bool = False
    take: int = Field(1, ge=1, le=100)
    upscale: bool = False
    caption: Caption | None = Field(None, description="Of clips that have none of their own.")


class TrainingOrder(BaseModel, extra="forbid"):
    """What is asked for: the adapter's name is what stands behind the destination's slash."""

    destination: str = Field(pattern=_DESTINATION)
    input: TrainingInput


class TrainingShown(BaseModel):
    """A training."""

    id: str
    model: str
    version: str
    destination: str
    status: Status
    input: dict[str, Any]
    output: dict[str, Any] | None
    error: str | None
    logs: str
    phase: str | None
    step: int
    metrics: dict[str, Any]
    created_at: str | None
    started_at: str | None
    completed_at: str | None
    urls: dict[str, str]


class TrainingPage(Page):
    """Some of them, newest first."""

    results: list[TrainingShown]


@router.post(
    "/v1/models/{owner}/{name}/versions/{version_id}/trainings",
    status_code=201,
    response_model=TrainingShown,
    responses=problems(404, 409, 413, 422, 501),
)
def create(
    owner: str,
    name: str,
    version_id: str,
    body: TrainingOrder,
    parts: Parts,
    base: Base,
    who: Maker,
) -> Any:
    """Train an adapter on uploaded clips. It is offered by its name when it is done."""
    offer = parts.offers.get(f"{owner}/{name}")
    if offer.version != version_id:
        raise not_found("version")
    trainers = _trainers(parts)
    _check(parts, trainers, offer, body)
    file = _upload(parts, body.input.clips, who.account)
    assert parts.settings.training is not None
    steps = body.input.steps or min(_STEPS, parts.settings.training.max_steps)
    given = body.input.model_dump(mode="json") | {"clips": file.id, "steps": steps}
    training = Training(
        id=new_id(),
        account=who.account,
        model=offer.name,
        version=offer.version,
        destination=body.destination,
        input=given,
    )
    made = trainers.book.add(training, lambda path: _bring(parts, file, path))
    parts.audit.add(who.account, "training", made.id, destination=body.destination)
    trainers.wake()
    return _shown(parts, made, base)


@router.get("/v1/trainings", response_model=TrainingPage, responses=problems(422))
def page(parts: Parts, base: Base, who: Reader, cursor: str | None = None) -> Any:
    """The account's trainings, newest first."""
    before = decode_cursor(cursor)
    if parts.trainers is None:
        return {"next": None, "previous": None, "results": []}
    found = parts.trainers.book.page(who.account, PAGE + 1, before)
    following = next_page(f"{base}/v1/trainings", [it.seq for it in found], PAGE)
    shown = [_shown(parts, it, base) for it in found[:PAGE]]
    return {"next": following, "previous": None, "results": shown}


@router.get("/v1/trainings/{training_id}", response_model=TrainingShown, responses=problems(404))
def get(training_id: str, parts: Parts, base: Base, who: Reader) -> Any:
    """One training."""
    return _shown(parts, _find(parts, training_id, who.account), base)


@router.post(
    "/v1/trainings/{training_id}/cancel", response_model=TrainingShown, responses=problems(404)
)
def cancel(training_id: str, parts: Parts, base: Base, who: Maker) -> Any:
    """Stop a training; one that has ended stays as it is."""
    found = _find(parts, training_id, who.account)
    trainers = _trainers(parts)
    ended = trainers.book.end(found.id, "canceled")
    trainers.wake()
    return _shown(parts, ended or _find(parts, training_id, who.account), base)


@router.get(
    "/v1/trainings/{training_id}/adapter",
    response_class=FileResponse,
    responses=problems(404, 409)
    | {200: {"description": "The file.", "content": {"application/octet-stream": {}}}},
)
def adapter(
    training_id: str,
    parts: Parts,
    who: Reader,
    flavour: Literal["original", "comfy", "diffusers"] = "original",
) -> FileResponse:
    """The finished adapter as a .safetensors file."""
    found = _find(parts, training_id, who.account)
    if found.status != "succeeded":
        raise Problem(409, f"it has {found.status}: there is no adapter")
    path = _trainers(parts).book.adapter(found) / _FLAVOURS[flavour]
    media_type = "application/octet-stream"
    return FileResponse(path, media_type=media_type, filename=f"{found.name}.safetensors")


def _trainers(parts: Services) -> Trainers:
    if parts.trainers is None:
        raise Problem(501, "this server does not train: its settings have no [training]")
    return parts.trainers


def _find(parts: Services, training_id: str, account: str) -> Training:
    found = parts.trainers and parts.trainers.book.get(training_id, account)
    if not found:
        raise not_found("training")
    return found


def _check(parts: Services, trainers: Trainers, offer: Offer, body: TrainingOrder) -> None:
    """Refuse what cannot work, all of it at once."""
    setting, given, name = parts.settings.training, body.input, body.destination.partition("/")[2]
    assert setting is not None
    wrong: list[dict[str, Any]] = []
    if given.steps is not None and given.steps > setting.max_steps:
        wrong.append(_field("input.steps", f"must be at most {setting.max_steps}"))
    if (given.width is None) != (given.height is None):
        wrong.append(_field("input.width", "comes with height"))
    wrong += _size_problems(given, offer)
    taken = any(name in it.lora_scales for it in parts.offers.entries.values())
    if taken or trainers.book.takes(name):
        wrong.append(_field("destination", f"there is an adapter {name} already"))
    elsewhere = [part for part in _ELSEWHERE if part in offer.entry.options]
    if elsewhere:
        wrong.append(_field("model", f"takes its {elsewhere[0]} from elsewhere, so none can learn"))
    if wrong:
        raise invalid(wrong)
    if len(trainers.book.unfinished()) >= setting.waiting_limit:
        raise Problem(429, "too many trainings wait", headers={"Retry-After": "600"})


def _size_problems(given: TrainingInput, offer: Offer) -> Sequence[dict[str, Any]]:
    usual = offer.description.defaults
    try:
        VideoSize(given.frames or 1, given.height or 16, given.width or usual["width"])
    except RequestError as error:
        return [field_problem(error, "input.")]
    return []


def _field(name: str, rule: str) -> dict[str, Any]:
    return {"type": "value", "field": name, "description": rule}


def _upload(parts: Services, named: str, account: str) -> StoredFile:
    """An upload of this account, by its id or address."""
    match = _FILE.fullmatch(named[max(0, named.find("/v1/files/")) :])
    file = parts.files.get(match[1], account) if match else None
    if file is None or file.prediction is not None:
        raise invalid([_field("input.clips", "is no uploaded file of yours: POST /v1/files first")])
    return file


def _bring(parts: Services, file: StoredFile, path: Path) -> None:
    with path.open("wb") as target:
        for piece in parts.blobs.read(file.id, 0, file.size):
            target.write(piece)


def _shown(parts: Services, training: Training, base: str) -> dict[str, Any]:
    assert parts.trainers is not None
    place = f"{base}/v1/trainings/{training.id}"
    output = None
    if training.status == "succeeded":
        weights = f"{place}/adapter"
        output = {"version": f"{training.model}:{training.version}", "weights": weights}
        output["lora"] = training.name
    return {
        "id": training.id,
        "model": training.model,
        "version": training.version,
        "destination": training.destination,
        "status": training.status,
        "input": dict(training.input),
        "output": output,
        "error": training.error,
        "logs": parts.trainers.book.log(training.id),
        "phase": training.phase,
        "step": training.step,
        "metrics": dict(training.metrics),
        "created_at": moment(training.created_at),
        "started_at": moment(training.started_at),
        "completed_at": moment(training.completed_at),
        "urls": {"get": place, "cancel": f"{place}/cancel"},
    }
