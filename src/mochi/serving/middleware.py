"""What happens to every request: limits, strange hosts and origins, headers, one log line."""

from __future__ import annotations

import time
from collections.abc import Iterable
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mochi.serving.metrics import Metrics
from mochi.serving.problems import Problem, needs_token, respond
from mochi.serving.store.tokens import Tokens

log = structlog.get_logger()

JSON_BYTES = 1_000_000
CSP = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": CSP,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """Refuses strange hosts and origins, and bodies that are too large.

    Without tokens whoever reaches the server is let in, so it must not be reached through a browser
    from another site: neither by a name that was made to point here (Host), nor by a form or script
    of another page (Origin). With tokens nothing is granted by being in the browser.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], tokens: Tokens, upload_bytes: int):
        self._app = app
        self._hosts = _LOOPBACK | frozenset(hosts)
        self._tokens = tokens
        self._upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        problem = self._problem(request)
        if problem is not None:
            await respond(request, problem)(scope, receive, send)
            return
        most = self._most(request)
        body = _Limited(receive, most)

        async def answer(message: Message) -> None:
            """Whatever the routes made of a body that was cut off: it was too large."""
            if not body.cut:
                await send(message)
            elif message["type"] == "http.response.start":
                await respond(request, _too_large(most))(scope, receive, send)

        await self._app(scope, body, answer)

    def _problem(self, request: Request) -> Problem | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not self._is_ours(host) and not self._tokens.needed:
            return Problem(403, f"the host {host[:100]!r} is not this server's; see allowed_hosts")
        if origin is not None and request.method not in _SAFE:
            theirs = urlsplit(origin).netloc
            if theirs != host and not self._is_ours(theirs):
                return Problem(403, "requests of pages elsewhere are not taken")
        if request.method not in _SAFE and self._is_stranger(request):
            return needs_token()
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._most(request):
            return _too_large(self._most(request))
        return None

    def _is_stranger(self, request: Request) -> bool:
        """Known before a byte of the body is read; wrong tokens are found out later."""
        return self._tokens.needed and "authorization" not in request.headers

    def _is_ours(self, authority: str) -> bool:
        try:
            return (urlsplit(f"//{authority}").hostname or "") in self._hosts
        except ValueError:
            return False

    def _most(self, request: Request) -> int:
        if request.headers.get("content-type", "").startswith("multipart/"):
            return self._upload_bytes + 65536  # the parts' own headers
        return JSON_BYTES


class _Limited:
    """Counts what comes, for bodies that do not say how long they are."""

    def __init__(self, receive: Receive, most: int):
        self._receive = receive
        self._left = most
        self.cut = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.cut = True
            raise Problem(413, "the body is too large")
        return message


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is larger than {most} bytes")


class Observed:
    """Sets headers, counts requests, and logs each one in a line."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - began
            self._metrics.request(scope["method"], route, status, seconds)
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=round(1000 * seconds, 1),
                account=scope.get("state", {}).get("account"),
                agent=Headers(scope=scope).get("user-agent", "")[:80],
            )
