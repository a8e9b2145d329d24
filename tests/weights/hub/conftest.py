"""A hub on this machine: what downloads use of the Hugging Face protocol, and its faults."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from tests.weights.hub.repository import REPOSITORY

from mochi.weights.hub import download
from mochi.weights.transfer import Retry

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Seen:
    """A request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class FakeHub:
    """What the server holds, what it does wrong, and what it was asked.

    Attributes:
        files: the content of its one repository.
        statuses: for each request of a kind ("api" or "resolve") that is still to come, the status
            to answer with; 200 for a good answer.
        cuts: for each download of a large file still to come, after how many bytes it breaks off.
        corrupt: contents arrive with a changed byte.
        ignore_range: answers the whole file to every request.
        redirect: where large files are sent to, as a storage host.
        licence: of the model card.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    repo_id: str = "owner/model"
    statuses: dict[str, list[int]] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    corrupt: bool = False
    ignore_range: bool = False
    redirect: str = ""
    garbage: bool = False
    token: str = ""
    licence: str | None = "apache-2.0"
    endpoint: str = ""
    seen: list[Seen] = field(default_factory=list)

    def large(self, name: str) -> bool:
        return name.endswith(".safetensors")

    def siblings(self) -> list[dict[str, object]]:
        return [
            {"rfilename": name, "size": len(content), "blobId": git_id(content)}
            | ({"lfs": self.lfs(content)} if self.large(name) else {})
            for name, content in self.files.items()
        ]

    def tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": git_id(content)}
            | (
                {"lfs": {**self.lfs(content), "oid": hashlib.sha256(content).hexdigest()}}
                if self.large(name)
                else {}
            )
            for name, content in self.files.items()
        ]

    def lfs(self, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        return {"size": len(content), "sha256": digest, "pointerSize": 130}

    def downloads(self) -> list[tuple[str, str | None]]:
        """Name and Range of every GET of a file."""
        return [
            (unquote(seen.path).partition(f"/{COMMIT}/")[2], seen.headers.get("range"))
            for seen in self.seen
            if seen.method == "GET" and "/resolve/" in seen.path
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = urlsplit(self.path).path
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.seen.append(Seen(self.command, path, headers))
        kind = "api" if path.startswith("/api/") else "resolve"
        status = self.hub.statuses[kind].pop(0) if self.hub.statuses.get(kind) else 200
        if self.hub.garbage:
            self.send(200, b"<html>welcome</html>", {})
        elif status != 200:
            self.fail(status, "")
        elif self.hub.token and headers.get("authorization") != f"Bearer {self.hub.token}":
            self.fail(401, "RepoNotFound")
        elif kind == "api":
            self.answer_api(path)
        else:
            self.answer_file(path, headers)

    def answer_api(self, path: str) -> None:
        base = f"/api/models/{self.hub.repo_id}"
        revision = unquote(path.removeprefix(base).rpartition("/")[2]) or "main"
        if not path.startswith(base):
            self.fail(404, "RepoNotFound")
        elif revision not in ("main", "v1", COMMIT):
            self.fail(404, "RevisionNotFound")
        elif "/tree/" in path:
            self.send(200, json.dumps(self.hub.tree()).encode(), {})
        else:
            card = {} if self.hub.licence is None else {"license": self.hub.licence}
            info = {"id": self.hub.repo_id, "sha": COMMIT, "cardData": card}
            body = json.dumps(info | {"tags": [], "siblings": self.hub.siblings()})
            self.send(200, body.encode(), {"Content-Type": "application/json"})

    def answer_file(self, path: str, headers: dict[str, str]) -> None:
        name = unquote(path).partition("/resolve/")[2].partition("/")[2]
        content = self.hub.files.get(name)
        if content is None:
            self.fail(404, "EntryNotFound")
            return
        large = self.hub.large(name)
        digest = hashlib.sha256(content).hexdigest() if large else git_id(content)
        facts = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if large:
            facts |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"'}
        if large and self.hub.redirect and not path.startswith("/storage"):
            self.send(302, b"", facts | {"Location": f"{self.hub.redirect}/storage{path}"})
            return
        if self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_content(content, headers.get("range"), facts)

    def send_content(self, content: bytes, wanted: str | None, facts: dict[str, str]) -> None:
        status, start = 200, 0
        if wanted and not self.hub.ignore_range:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.fail(416, "")
                return
            status = 206
            facts["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(status, content[start:], facts)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cuts and self.hub.large(self.path) and status in (200, 206):
            self.wfile.write(body[: self.hub.cuts.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        if status == 429:
            headers["Retry-After"] = "3"
        self.send(status, b'{"error": "no"}', headers)

    def log_message(self, *words: object) -> None:
        """Tests are silent."""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    content = FakeHub()
    handler = type("Bound", (Handler,), {"hub": content})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    content.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield content
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def fetch(hub: Any, tmp_path: Path, waits: list[float]) -> Callable[..., Path]:
    """Download into a folder, with patience that takes no time."""
    hub.files = dict(REPOSITORY)

    def go(repo_id: str = "owner/model", dest: Path | None = tmp_path / "to", **more: Any) -> Path:
        settings = {"endpoint": hub.endpoint, "token": False, "cache": tmp_path / "cache"}
        retry = Retry(attempts=3, wait_seconds=1, sleep=waits.append)
        return download(repo_id, dest, **(settings | {"retry": retry} | more))

    return go
