"""Sending webhooks: signed after Standard Webhooks, to checked addresses, until they arrive."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from mochi.core.errors import RequestError
from mochi.serving.guard import Policy, Resolver, Target, resolve
from mochi.serving.jobs import Job
from mochi.serving.present import prediction
from mochi.serving.store.outbox import Letter

if TYPE_CHECKING:
    from mochi.serving.services import Services

__all__ = ["Courier", "Policy", "Resolver", "resolve"]

log = structlog.get_logger()
_TIMEOUT_SECONDS = 10.0
_GIVE_UP_SECONDS = 24 * 3600.0
_LEASE_SECONDS = 60.0
_LONGEST_PAUSE = 3600.0
_AT_ONCE = 10


def secret_text(secret: bytes) -> str:
    """As clients are given it."""
    return "whsec_" + base64.b64encode(secret).decode()


class Courier:
    """Empties the outbox."""

    def __init__(self, services: Services):
        self._services = services

    def deliver(self) -> int:
        """Send what is due; returns how many there were."""
        letters = self._services.outbox.take(_AT_ONCE, _LEASE_SECONDS)
        for letter in letters:
            self._deliver(letter)
        return len(letters)

    def _deliver(self, letter: Letter) -> None:
        services = self._services
        job = services.store.get(letter.prediction)
        if job is None or job.webhook is None:
            services.outbox.done(letter)
            return
        try:
            status = self._send(job, letter)
            reason = f"answered {status}"
        except (OSError, http.client.HTTPException, RequestError) as error:
            status, reason = 0, str(error)
        if 200 <= status < 300:
            services.outbox.done(letter)
            return
        age = services.database.clock() - letter.created_at
        log.warning("webhook_failed", id=job.id, event_kind=letter.event, reason=reason)
        if letter.event != "completed" or age > _GIVE_UP_SECONDS:
            services.outbox.done(letter)
        else:
            services.outbox.again(letter, min(_LONGEST_PAUSE, 2.0**letter.attempts))

    def _send(self, job: Job, letter: Letter) -> int:
        from standardwebhooks import Webhook

        services = self._services
        target = services.policy.target(job.webhook or "")
        base = str(job.extras.get("base_url", services.settings.public_url or ""))
        body = json.dumps(prediction(job, base, services.links))
        now = datetime.now(UTC)
        signature = Webhook(secret_text(services.webhook_secret)).sign(letter.message, now, body)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "mochi",
            "webhook-id": letter.message,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signature,
        }
        return post(target, body.encode(), headers)


def post(target: Target, body: bytes, headers: Mapping[str, str]) -> int:
    """POST to an address that was checked; redirects are not followed, the answer is not read.

    Raises:
        OSError: no connection, or no answer within ten seconds.
    """
    connection = _Dialled(target)
    try:
        connection.request("POST", target.path, body, {**headers, "Host": target.authority})
        return connection.getresponse().status
    finally:
        connection.close()


class _Dialled(http.client.HTTPConnection):
    """A connection to the address that was checked, with the name only inside TLS and headers."""

    def __init__(self, target: Target):
        super().__init__(target.host, target.port, timeout=_TIMEOUT_SECONDS)
        self._target = target

    def connect(self) -> None:
        """Dial; nothing is resolved here."""
        place = (self._target.address, self._target.port)
        plain = socket.create_connection(place, _TIMEOUT_SECONDS)
        if self._target.scheme == "https":
            context = ssl.create_default_context()
            self.sock: Any = context.wrap_socket(plain, server_hostname=self._target.host)
        else:
            self.sock = plain
