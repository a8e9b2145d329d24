"""Who asks: the services and the identity that every route gets handed."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from mochi.serving.problems import Problem, needs_token
from mochi.serving.services import Services
from mochi.serving.store.tokens import SCOPES, Identity, Scope

LOCAL = Identity("local", frozenset(SCOPES))
"""Everyone on this machine, as long as there is no token."""

_scheme = HTTPBearer(auto_error=False, description="A token of `mochi token create`.")


def services_of(request: Request) -> Services:
    """The server's parts."""
    return cast(Services, request.app.state.services)


async def _parts(request: Request) -> Services:
    """A coroutine, as `_base` is: for a plain function FastAPI would start a thread."""
    return services_of(request)


def bearer(request: Request) -> str | None:
    """The token in the header, `Bearer` or `Token`."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() in ("bearer", "token") else None


def identify(request: Request) -> Identity | None:
    """Who asks; None for a stranger."""
    tokens = services_of(request).tokens
    token = bearer(request)
    if token is not None and (found := tokens.find(token)) is not None:
        return found
    return None if tokens.any() else LOCAL


class _Needs:
    """A dependency: the identity, if it may."""

    def __init__(self, scope: Scope):
        self._scope: Scope = scope

    async def __call__(self, request: Request, _: Annotated[object, Depends(_scheme)]) -> Identity:
        identity: Identity | None = LOCAL
        if "authorization" in request.headers or services_of(request).tokens.needed:
            identity = await run_in_threadpool(identify, request)
        if identity is None:
            raise needs_token()
        if not identity.may(self._scope):
            raise Problem(403, f"this token may not {self._scope}; its scopes are of other things")
        request.state.account = identity.account
        services_of(request).limiter.hit(identity.account)
        return identity


def base_url(request: Request) -> str:
    """What the client reaches this server by."""
    public = services_of(request).settings.public_url
    return public or str(request.base_url).rstrip("/")


async def _base(request: Request) -> str:
    return base_url(request)


Parts = Annotated[Services, Depends(_parts)]
Base = Annotated[str, Depends(_base)]
Reader = Annotated[Identity, Depends(_Needs("read"))]
Maker = Annotated[Identity, Depends(_Needs("run"))]
Watcher = Annotated[Identity, Depends(_Needs("metrics"))]
