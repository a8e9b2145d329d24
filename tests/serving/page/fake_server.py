"""A server that says what a test wants to hear: the routes of docs/serving.md, scripted.

`World` is what a real server keeps in its database; `Server` is what can be stopped and started
again over the same world, on the same port. Videos are the clips that ship with the page.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.serving.page import fake_answers as answers
from tests.serving.page.fake_answers import PAGE, Run

KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
KINDS |= {".svg": "image/svg+xml", ".json": "application/json", ".mp4": "video/mp4"}
KINDS |= {".webp": "image/webp", ".png": "image/png", ".gif": "image/gif"}
CSP = "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'"


@dataclass
class World:
    """What outlives a server, and what a test changes to get its way."""

    runs: dict[str, Run] = field(default_factory=dict)
    token: str | None = None
    step_seconds: float = 0.02
    steps: int = 16
    hold_at: int | None = None  # a step at which runs wait for `release`
    fail_with: str | None = None
    price: float | None = 0.0004
    runner_state: str = "idle"
    runner_reason: str | None = None
    trouble: str | None = None
    ahead: int = 0  # others' jobs in the queue
    refuse: dict[str, Any] | None = None  # a problem that creations are answered with
    seen: list[dict[str, Any]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    turn: threading.Event = field(default_factory=threading.Event)  # runs begin when it is set
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.turn.set()

    def create(self, values: dict[str, Any], batch: str | None = None) -> Run:
        """A run, and the thread that plays its script."""
        run = Run.new(len(self.runs), values, batch, self.steps)
        self.runs[run.id] = run
        threading.Thread(target=self.play, args=(run,), daemon=True).start()
        return run

    def say(self, run: Run, event: str, **data: Any) -> None:
        """One more event of a run, for whoever listens."""
        with self.changed:
            run.say(event, data)
            self.changed.notify_all()

    def play(self, run: Run) -> None:
        """The script: a queue, five phases, steps with pictures, an end."""
        for position in range(self.ahead, 0, -1):
            self.say(run, "queue", position=position + 1, of=self.ahead + 1, eta_seconds=position)
            self.turn.wait()
            time.sleep(self.step_seconds)
        self.turn.wait()
        self.say(run, "phase", phase="text", total=None)
        self.say(run, "log", line=f"seed: {run.input['seed']}")
        self.say(run, "phase", phase="denoise", total=run.steps)
        for step in range(1, run.steps + 1):
            if not self._step(run, step):
                return
        frames = run.frames
        self.say(run, "phase", phase="decode", total=frames)
        self.say(run, "frames", frames=frames, total=frames)
        self.say(run, "phase", phase="write", total=None)
        self.say(run, "output", output=run.output, variants=run.variants)
        run.finish("succeeded")
        self.say(run, "done", status="succeeded", error=None, metrics=run.metrics)

    def _step(self, run: Run, step: int) -> bool:
        """One step; whether the run goes on."""
        if step == self.hold_at:
            while not self.release.wait(0.02) and not run.cancelled:
                pass
        time.sleep(self.step_seconds)
        if run.cancelled or (self.fail_with and step > run.steps // 2):
            status = "canceled" if run.cancelled else "failed"
            run.finish(status, None if run.cancelled else self.fail_with)
            self.say(run, "done", status=status, error=run.error, metrics={})
            return False
        left = (run.steps - step) * self.step_seconds
        self.say(
            run,
            "step",
            step=step,
            steps=run.steps,
            seconds_per_step=self.step_seconds,
            eta_seconds=left,
        )
        self.say(run, "preview", step=step, data=answers.preview(step / run.steps))
        self.say(run, "log", line=f"{step}/{run.steps} [{step * self.step_seconds:.1f}s]")
        return True


class QuietServer(ThreadingHTTPServer):
    """A browser cuts connections as it likes; that is no news."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


class Server:
    """The HTTP side; `stop` cuts every connection, as a killed process does."""

    def __init__(self, world: World, port: int = 0) -> None:
        self.world = world
        handler = type("Bound", (Handler,), {"server_ref": self})
        self.open: set[Any] = set()
        self.stopping = False
        self.http = QuietServer(("127.0.0.1", port), handler)
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopping = True
        self.http.shutdown()
        self.http.server_close()
        for connection in list(self.open):
            connection.close()


class Handler(BaseHTTPRequestHandler):
    """Routes."""

    server_ref: Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server_ref.open.add(self.connection)

    def finish(self) -> None:
        self.server_ref.open.discard(self.connection)
        super().finish()

    @property
    def world(self) -> World:
        return self.server_ref.world

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_PUT(self) -> None:
        self.answer("PUT")

    def do_DELETE(self) -> None:
        self.answer("DELETE")

    def answer(self, method: str) -> None:
        with suppress(OSError):  # a browser goes away when it has seen enough
            self.dispatch(method)

    def dispatch(self, method: str) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(length)) if length else {}
        path = parts.path
        if not path.startswith("/v1/"):
            return self.page(path)
        is_open = path == "/v1/server" or path.startswith("/v1/shared/") or "sig" in self.query
        given = self.headers.get("Authorization")
        if self.world.token and not is_open and given != f"Bearer {self.world.token}":
            return self.problem(401, "a token is needed")
        return self.route(method, path.removeprefix("/v1/").split("/"))

    def route(self, method: str, parts: list[str]) -> None:
        world = self.world
        match method, parts:
            case "POST", ["predictions"]:
                self.create([self.body["input"]])
            case "POST", ["predictions", "batch"]:
                self.create(self.body["inputs"], batch="b1")
            case "GET", ["predictions"]:
                self.json(answers.listing(world.runs.values(), self.query))
            case "POST", ["estimates"]:
                self.json(answers.estimate(self.body["input"], world.price))
            case "POST", ["count-tokens"]:
                tokens = len(self.body["prompt"].split()) + 1
                self.json({"tokens": tokens, "limit": 256, "cut": tokens > 256})
            case "GET", ["server"]:
                self.json(answers.server(world))
            case "GET", ["files", name, "download"]:
                self.download(name)
            case _, ["predictions" | "shared" as kind, name, *rest] if name in world.runs:
                self.prediction(method, kind, world.runs[name], rest)
            case _:
                found = answers.fixed(parts)
                if found is None:
                    self.problem(404, "not there, or not yours")
                elif isinstance(found, str):
                    self.send(200, found.encode(), "text/markdown")
                else:
                    self.json(found)

    def prediction(self, method: str, kind: str, run: Run, rest: list[str]) -> None:
        match method, kind, rest:
            case "GET", "shared", [] if not run.is_shared:
                self.problem(404, "not there, or not yours")
            case "GET", _, []:
                self.json(run.to_dict())
            case "POST", _, ["cancel"]:
                run.cancelled = True
                self.json(run.to_dict())
            case "DELETE", _, []:
                del self.world.runs[run.id]
                self.send(204, b"", "text/plain")
            case "PUT", _, ["share"]:
                run.is_shared = True
                self.json({"url": f"{self.server_ref.url}/p/{run.id}"})
            case "DELETE", _, ["share"]:
                run.is_shared = False
                self.send(204, b"", "text/plain")
            case "GET", _, ["events"]:
                self.events(run)
            case _:
                self.problem(404, "no such route")

    def create(self, inputs: list[dict[str, Any]], batch: str | None = None) -> None:
        self.world.seen.extend(inputs)
        if self.world.refuse:
            self.json(self.world.refuse, self.world.refuse["status"], problem=True)
            return
        runs = [self.world.create(values, batch) for values in inputs]
        made = [run.to_dict() for run in runs]
        self.json(
            {"batch": batch, "predictions": made} if batch else made[0], 202 if batch else 201
        )

    def events(self, run: Run) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        at = int(self.headers.get("Last-Event-ID") or 0)
        while not self.server_ref.stopping:
            with self.world.changed:
                if len(run.events) == at:
                    self.world.changed.wait(0.05)
                fresh, at = run.events[at:], len(run.events)
            if self.query.get("previews") == "0":
                fresh = [line for line in fresh if "event: preview" not in line]
            self.wfile.write("".join(fresh).encode())
            self.wfile.flush()
            if any("event: done" in line for line in fresh):
                break
        self.close_connection = True

    def download(self, name: str) -> None:
        run = self.world.runs.get(name)
        if run is None:
            self.problem(404, "not there, or not yours")
            return
        body, kind = answers.media(run, self.query.get("variant"))
        self.ranged(body, kind)

    def page(self, path: str) -> None:
        name = path.removeprefix("/static/") if path.startswith("/static/") else "index.html"
        file = PAGE / name
        if not file.resolve().is_relative_to(PAGE) or not file.is_file():
            return self.send(404, b"", "text/plain")
        return self.ranged(file.read_bytes(), KINDS[file.suffix], {"Cache-Control": "max-age=600"})

    def ranged(self, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        """The whole, or the part that was asked for (RFC 9110, section 14)."""
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes="):
            return self.send(200, body, kind, more)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first or 0), min(int(last or len(body) - 1), len(body) - 1)
        where = f"bytes {start}-{end}/{len(body)}"
        return self.send(206, body[start : end + 1], kind, {"Content-Range": where, **(more or {})})

    def json(self, value: Any, status: int = 200, *, problem: bool = False) -> None:
        kind = "application/problem+json" if problem else "application/json"
        self.send(status, json.dumps(value).encode(), kind)

    def problem(self, status: int, detail: str) -> None:
        self.json({"title": detail, "detail": detail, "status": status}, status, problem=True)

    def send(self, status: int, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}
        for name, value in {**headers, "Content-Security-Policy": CSP, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
