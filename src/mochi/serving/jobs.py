"""A job as a value: what was asked for, how far it is, and how it ended."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mochi.serving.store.files import NewFile

Status = Literal["starting", "processing", "succeeded", "failed", "canceled"]
ENDED: tuple[Status, ...] = ("succeeded", "failed", "canceled")

WebhookEvent = Literal["start", "output", "logs", "completed"]
WEBHOOK_EVENTS: tuple[WebhookEvent, ...] = ("start", "output", "logs", "completed")


_ID = re.compile(r"[a-z2-7]{26}")


def new_id() -> str:
    """26 characters of base32: 128 random bits, so an id cannot be guessed."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


def is_id(text: str) -> bool:
    """Whether this could be an id: anything else is not worth asking a database."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A checked request, about to be enqueued.

    Attributes:
        account: whose it is.
        model, version: the name it was asked under, and the hash of the weights.
        input: as it was given, with the seed that was drawn; shown again to its owner.
        request: `GenerateRequest.to_dict()`; what the runner makes.
        notes: lines for its log, such as what was snapped.
        priority: higher goes first.
        token: id of the token that it was asked for with; its limits hold.
        deadline: seconds since 1970; not done by then, it is cancelled.
        idempotency_key, body_hash: how a repeat is recognised.
        extras: what a dialect remembers beside the input.
    """

    account: str
    model: str
    version: str
    input: Mapping[str, Any]
    request: Mapping[str, Any]
    notes: Sequence[str] = ()
    priority: int = 0
    deadline: float | None = None
    estimate_seconds: float | None = None
    webhook: str | None = None
    webhook_events: Sequence[WebhookEvent] = WEBHOOK_EVENTS
    idempotency_key: str | None = None
    body_hash: str = ""
    source: str = "api"
    batch: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A row of the queue. Times are seconds since 1970.

    Attributes:
        seq: rises with each job; pages are cut by it.
        attempts: how often a runner began it.
        output_file: id of the finished video's file.
        step, steps: of denoising, as last heard.
        shared: whether anyone with its address may see it.
    """

    seq: int
    id: str
    account: str
    model: str
    version: str
    status: Status
    input: Mapping[str, Any]
    request: Mapping[str, Any]
    output_file: str | None
    error: str | None
    logs: str
    phase: str | None
    step: int
    steps: int
    metrics: Mapping[str, Any]
    created_at: float
    started_at: float | None
    completed_at: float | None
    deadline: float | None
    priority: int
    attempts: int
    lease_token: str | None
    lease_owner: str | None
    lease_until: float | None
    estimate_seconds: float | None
    webhook: str | None
    webhook_events: Sequence[WebhookEvent]
    idempotency_key: str | None
    body_hash: str
    source: str
    batch: str | None
    shared: bool
    extras: Mapping[str, Any]
    token: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ENDED


@dataclass(frozen=True)
class Outcome:
    """How a run ended: a file and facts about it, or an error.

    Attributes:
        output_file: id of the video's file.
        file: its row, which appears with the end of the job; None: it is there, or there is none.
    """

    output_file: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    file: NewFile | None = None


@dataclass(frozen=True)
class Waiting:
    """A job in the queue, as far as its turn is concerned."""

    id: str
    seq: int
    account: str
    priority: int
    attempts: int
    estimate_seconds: float | None


class QueueFullError(Exception):
    """As many jobs wait as may wait."""

    def __init__(self, limit: int, whose: str):
        self.limit = limit
        self.whose = whose
        super().__init__(f"{limit} jobs {whose} wait already")


class IdempotencyError(Exception):
    """A key came again with another body."""
