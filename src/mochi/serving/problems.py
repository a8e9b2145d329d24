"""Errors as clients get them: `application/problem+json`, each with a way out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from mochi.core.errors import OutputError, RequestError
from mochi.serving.store.database import DatabaseError

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer that is an error.

    Attributes:
        fields: `invalid_fields` of the answer.
        code: a word for programs, used by the videos dialect.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str | None = None,
        fields: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        code: str | None = None,
        **more: Any,
    ):
        self.status = status
        self.detail = detail
        self.title = title or HTTPStatus(status).phrase
        self.fields = list(fields)
        self.headers = dict(headers or {})
        self.code = code
        self.more = more
        super().__init__(detail)

    def body(self) -> dict[str, Any]:
        """As JSON."""
        body = {"title": self.title, "detail": self.detail, "status": self.status, **self.more}
        return body | ({"invalid_fields": self.fields} if self.fields else {})


def invalid(fields: Sequence[Mapping[str, Any]]) -> Problem:
    """422: these fields break their rules, all of them told at once."""
    lines = [f"{field['field']}: {field['description']}" for field in fields]
    return Problem(422, "; ".join(lines), title="Input validation failed", fields=fields)


def field_problem(error: RequestError, prefix: str = "", name: str | None = None) -> dict[str, Any]:
    """A broken rule as an entry of `invalid_fields`."""
    entry = {"type": "value", "field": f"{prefix}{name or error.field}", "description": error.rule}
    return entry | ({} if error.nearest is None else {"nearest": str(error.nearest)})


def needs_token() -> Problem:
    """401: who are you?"""
    detail = "a token is needed: Authorization: Bearer TOKEN"
    return Problem(401, detail, headers={"WWW-Authenticate": "Bearer"})


def not_found(what: str = "prediction") -> Problem:
    """404: not there, or not yours, which is the same to you."""
    return Problem(404, f"there is no such {what}")


def install(app: FastAPI) -> None:
    """Answer every error of ours and of the framework's in one shape."""
    for kind in (Problem, RequestValidationError, HTTPException, DatabaseError, OutputError):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(Exception, _answer_bug)


async def _answer(request: Request, error: Exception) -> Response:
    return respond(request, as_problem(error))


async def _answer_bug(request: Request, error: Exception) -> Response:
    log.error("request_failed", path=request.url.path, exc_info=error)
    return respond(request, Problem(500, "an error of the server's; its log says more"))


def as_problem(error: Exception) -> Problem:
    """Any error that we know as a problem."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return invalid([_of_pydantic(entry) for entry in error.errors()])
    if isinstance(error, HTTPException):
        return Problem(error.status_code, str(error.detail), headers=error.headers)
    return Problem(503, str(error), headers={"Retry-After": "5"})


def _of_pydantic(entry: Mapping[str, Any]) -> dict[str, Any]:
    where = [str(part) for part in entry["loc"] if part not in ("body", "query", "path", "header")]
    return {"type": "value", "field": ".".join(where) or "body", "description": entry["msg"]}


def respond(request: Request, problem: Problem) -> Response:
    """The answer, in the dialect of the address that was asked."""
    if request.url.path.startswith("/v1/videos"):
        kind = "invalid_request_error" if problem.status < 500 else "server_error"
        first = problem.fields[0]["field"] if problem.fields else None
        param = None if first is None else first.removeprefix("input.")
        error = {"message": problem.detail, "type": kind, "param": param, "code": problem.code}
        return _json({"error": error}, problem, "application/json")
    return _json(problem.body(), problem, MEDIA_TYPE)


def _json(body: object, problem: Problem, media_type: str) -> Response:
    """Escaped to ASCII: what a client sent and is shown again may hold half a character."""
    return Response(json.dumps(body), problem.status, problem.headers, media_type)
