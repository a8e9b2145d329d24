"""From a checked body to a row in the queue: the one way in, for both dialects."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mochi.core.errors import RequestError
from mochi.serving.bell import JOBS
from mochi.serving.estimates import check_fits
from mochi.serving.inputs import LORAS, Checked
from mochi.serving.jobs import (
    WEBHOOK_EVENTS,
    IdempotencyError,
    Job,
    NewJob,
    QueueFullError,
    WebhookEvent,
    new_id,
)
from mochi.serving.offers import Offer
from mochi.serving.problems import Problem, field_problem, invalid
from mochi.serving.services import Services
from mochi.serving.store.tokens import Identity

_REPEAT_SECONDS = 120.0
_DURATION = re.compile(r"(\d{1,7})(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SHORTEST, _LONGEST = 5.0, 7 * 86400.0
_KEY = re.compile(r"[\x20-\x7e]{1,255}")


@dataclass(frozen=True)
class Order:
    """What comes with inputs, the same for all of a batch.

    Attributes:
        headers: of the request, with names in small letters.
        body: all that was sent, to recognise a repeat by.
    """

    who: Identity
    version: str | None
    headers: Mapping[str, str]
    body: object
    base: str
    webhook: str | None = None
    webhook_events: Sequence[WebhookEvent] | None = None
    source: str = "api"
    extras: Mapping[str, Any] = field(default_factory=dict)


def enqueue(
    services: Services, order: Order, inputs: Sequence[object], *, batch: bool = False
) -> tuple[list[Job], bool]:
    """Check everything, then enqueue all or nothing; returns the jobs, and whether it was a repeat.

    Raises:
        Problem: with what is wrong.
    """
    offer = services.offers.resolve(order.version)
    digest = _digest(order.body)
    key = _key(order.headers)
    if key is None and not batch and _is_retry(order.headers):
        known = services.store.recent(order.who.account, digest, _REPEAT_SECONDS)
        if known is not None:
            return [known], True
    checked = _checked(services, offer, order.who.account, inputs, batch)
    seconds = [_seconds(services, offer, it) for it in checked]
    _check_allowance(services, order.who, seconds)
    common = _common(services, order, offer, digest)
    batch_id = new_id() if batch else None
    jobs = [
        NewJob(
            **common,
            input=it.input,
            request=it.request | {"model": offer.public_source},
            notes=it.notes,
            estimate_seconds=seconds[number],
            idempotency_key=None if key is None else f"{key}#{number}",
            batch=batch_id,
        )
        for number, it in enumerate(checked)
    ]
    return _put(services, jobs)


def _put(services: Services, jobs: Sequence[NewJob]) -> tuple[list[Job], bool]:
    settings = services.settings
    try:
        added, known = services.store.add(
            jobs, settings.waiting_limit, settings.account_waiting_limit
        )
    except QueueFullError as error:
        raise Problem(429, str(error), title="Queue full", headers={"Retry-After": "10"}) from None
    except IdempotencyError:
        rule = "came before with another body"
        entry = {"type": "value", "field": "Idempotency-Key", "description": rule}
        raise invalid([entry]) from None
    services.bus.ring(JOBS)
    return added, known


def _checked(
    services: Services, offer: Offer, account: str, inputs: Sequence[object], batch: bool
) -> list[Checked]:
    checked, wrong = [], []
    for number, given in enumerate(inputs):
        prefix = f"inputs[{number}]." if batch else "input."
        try:
            it = offer.check(given, services.settings, prefix)
            check_safe(services, account, it, prefix)
            check_fits(services, offer.name, it.request, prefix)
            checked.append(it)
        except Problem as problem:
            wrong += problem.fields
    if wrong:
        raise invalid(wrong)
    return checked


def check_safe(services: Services, account: str, checked: Checked, prefix: str) -> None:
    """Refuse a prompt, or an adapter by its name, that asks for what is not made here, or note it,
    as the settings say.

    Raises:
        Problem: 422, of type `refused`.
    """
    prompt, names = checked.request["prompt"], [name for name, _ in checked.request.get(LORAS, [])]
    for point, text in [("prompt", prompt), *((LORAS, name) for name in names)]:
        verdict = services.safety.look(text)
        if verdict is None:
            continue
        action = "refused" if verdict.refused else "flagged"
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        about = {"point": point, "term": verdict.term, "prompt_sha256": digest}
        services.audit.add(account, action, None, **about)
        if verdict.refused:
            rule = "asks for something that this server does not make"
            raise invalid([{"type": "refused", "field": f"{prefix}{point}", "description": rule}])


def _check_allowance(services: Services, who: Identity, new: Sequence[float | None]) -> None:
    """Refuse what goes beyond a token's seconds of a day.

    Raises:
        Problem: 429.
    """
    limit = who.allowance.seconds_per_day
    if limit is None or who.token is None:
        return
    used, promised = services.usage.of(who.token), services.usage.promised(who.token)
    asked = sum(seconds or 0.0 for seconds in new)
    if used + promised + asked <= limit:
        return
    words = (
        f"this token may take {limit:g} s of a device in 24 hours: {used:.1f} s are used, "
        f"{promised:.1f} s wait, {asked:.1f} s are asked for"
    )
    raise Problem(429, words, title="Allowance used", headers={"Retry-After": "600"})


def _common(services: Services, order: Order, offer: Offer, digest: str) -> dict[str, Any]:
    """What all jobs of an order share."""
    try:
        webhook = None if order.webhook is None else services.policy.check(order.webhook)
    except RequestError as error:
        raise invalid([field_problem(error)]) from None
    return {
        "account": order.who.account,
        "token": order.who.token,
        "priority": order.who.allowance.priority,
        "model": offer.name,
        "version": offer.version,
        "deadline": _deadline(services, order.headers),
        "webhook": webhook,
        "webhook_events": tuple(order.webhook_events or WEBHOOK_EVENTS),
        "body_hash": digest,
        "source": order.source,
        "extras": {"base_url": order.base, **order.extras},
    }


def _seconds(services: Services, offer: Offer, checked: Checked) -> float | None:
    found = services.runtimes.estimate(offer.name, checked.request)
    return None if found is None else found["p50"]


def _deadline(services: Services, headers: Mapping[str, str]) -> float | None:
    """`Cancel-After: 30s` as a time."""
    text = headers.get("cancel-after")
    if text is None:
        return None
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else -1.0
    if not _SHORTEST <= seconds <= _LONGEST:
        raise Problem(400, "Cancel-After is not a duration of 5s to 7d, such as 30s, 5m or 1h")
    return services.database.clock() + seconds


def wait_seconds(headers: Mapping[str, str]) -> float | None:
    """How long `Prefer: wait` or `wait=n` asks the answer to be held; None: not at all."""
    for part in headers.get("prefer", "").split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "wait":
            if not value:
                return 60.0
            if not value.isdecimal() or not 1 <= int(value) <= 60:
                raise Problem(400, "Prefer: wait takes 1 to 60 seconds")
            return float(value)
    return None


def _key(headers: Mapping[str, str]) -> str | None:
    key = headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise Problem(400, "Idempotency-Key is not 1 to 255 ASCII characters")
    return key


def _is_retry(headers: Mapping[str, str]) -> bool:
    """Whether an SDK says that it sends this again."""
    count = headers.get("x-stainless-retry-count", "0")
    return count.isdecimal() and int(count) > 0


def _digest(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
