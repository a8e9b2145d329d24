"""What goes in and comes out, for the OpenAPI description and for checking both."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mochi.serving.jobs import Status, WebhookEvent
from mochi.serving.problems import MEDIA_TYPE


class Strict(BaseModel):
    """A body without room for typing errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Creation(Strict):
    """Body of a creation in the predictions dialect."""

    input: dict[str, Any]
    version: str | None = Field(None, max_length=200)
    model: str | None = Field(None, max_length=200)
    webhook: str | None = None
    webhook_events_filter: list[WebhookEvent] | None = None
    stream: bool | None = Field(None, description="Taken and ignored: every prediction streams.")


class BatchCreation(Strict):
    """Body of a batch: all of it is enqueued, or nothing."""

    inputs: list[dict[str, Any]] = Field(min_length=1, max_length=100)
    version: str | None = Field(None, max_length=200)
    model: str | None = Field(None, max_length=200)
    webhook: str | None = None
    webhook_events_filter: list[WebhookEvent] | None = None


class EstimateOrder(Strict):
    """Body of an estimate."""

    input: dict[str, Any]
    version: str | None = Field(None, max_length=200)


class CountOrder(Strict):
    """Body of a count of tokens."""

    prompt: str = Field(max_length=10_000)
    version: str | None = Field(None, max_length=200)


class Variants(BaseModel):
    """Signed addresses of pictures and copies of a video."""

    gif: str
    thumbnail: str
    last_frame: str
    spritesheet: str


class Prediction(BaseModel):
    """A job in the predictions dialect."""

    id: str
    model: str
    version: str
    status: Status
    source: str
    batch: str | None
    data_removed: bool
    shared: bool
    input: dict[str, Any]
    output: str | None
    variants: Variants | None
    error: str | None
    logs: str
    created_at: str
    started_at: str | None
    completed_at: str | None
    deadline: str | None
    metrics: dict[str, Any]
    urls: dict[str, str]


class SharedPrediction(BaseModel):
    """What anyone with the address may see."""

    id: str
    model: str
    version: str
    status: Status
    input: dict[str, Any]
    output: str | None
    variants: Variants | None
    created_at: str
    completed_at: str | None
    metrics: dict[str, Any]


class Batch(BaseModel):
    """A batch that was enqueued."""

    batch: str
    predictions: list[Prediction]


class Page(BaseModel):
    """A page of a list; `next` leads to older entries."""

    next: str | None = None
    previous: str | None = None


class PredictionPage(Page):
    """Predictions, newest first."""

    results: list[Prediction]


class File(BaseModel):
    """A file."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: dict[str, Any]
    created_at: str
    expires_at: str | None
    urls: dict[str, str]


class FilePage(Page):
    """Files, newest first."""

    results: list[File]


class Version(BaseModel):
    """Weights of a model, and what their input looks like."""

    id: str
    created_at: str
    cog_version: str
    openapi_schema: dict[str, Any]


class VersionPage(Page):
    """Versions, newest first."""

    results: list[Version]


class Model(BaseModel):
    """A model on offer."""

    owner: str
    name: str
    url: str
    description: str
    visibility: str
    run_count: int
    licence: str
    latest_version: Version
    default_example: dict[str, Any] | None
    cover_image_url: str | None


class ModelPage(Page):
    """Models."""

    results: list[Model]


class Listing(Page):
    """A list whose entries are described in the text."""

    results: list[dict[str, Any]]


class Price(BaseModel):
    """Money."""

    amount: float
    currency: str


class Seconds(BaseModel):
    """How long it takes half the time, and nine times of ten."""

    p50: float
    p90: float


class QueueState(BaseModel):
    """A place in the queue; 1 is next."""

    position: int
    of: int
    eta_seconds: float | None


class Estimate(BaseModel):
    """What a run would take."""

    input: dict[str, Any]
    notes: list[str]
    seconds: Seconds | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    fits: bool | None
    price: Price | None
    queue: QueueState


class TokenCount(BaseModel):
    """How much of a prompt is read."""

    tokens: int
    limit: int
    cut: bool


class AllowanceState(BaseModel):
    """What a token may take, and what it took within the last day."""

    concurrency: int | None
    seconds_per_day: float | None
    priority: int
    seconds_used: float


class Account(BaseModel):
    """Who asks."""

    type: str
    username: str
    name: str
    scopes: list[str]
    allowance: AllowanceState


class Hardware(BaseModel):
    """A device."""

    name: str
    sku: str


class Video(BaseModel):
    """A job in the videos dialect."""

    id: str
    object: str
    model: str
    status: str
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    size: str
    seconds: str
    error: dict[str, str] | None
    prompt: str
    remixed_from_video_id: str | None


class VideoPage(BaseModel):
    """Videos in the videos dialect."""

    object: str
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """A video that is gone."""

    id: str
    object: str
    deleted: bool


class InvalidField(BaseModel):
    """A field that breaks its rule."""

    type: str
    field: str
    description: str
    nearest: str | None = None


class ProblemBody(BaseModel):
    """An error."""

    title: str
    detail: str
    status: int
    invalid_fields: list[InvalidField] | None = None


class VideoError(BaseModel):
    """An error in the videos dialect."""

    error: dict[str, str | None]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Answers of a route that are errors, for the description."""
    schema = {"$ref": "#/components/schemas/ProblemBody"}
    content = {MEDIA_TYPE: {"schema": schema}}
    everywhere = (400, 401, 403, 429, 503)
    return {
        status: {"description": "A problem.", "content": content}
        for status in sorted({*everywhere, *statuses})
    }


def video_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same in the videos dialect."""
    everywhere = (400, 401, 403, 429, 503)
    return {
        status: {"description": "An error.", "model": VideoError}
        for status in sorted({*everywhere, *statuses})
    }
