"""A whole server in this process, on loopback, with runners that need no model."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from mochi.serving.runner.process import ProcessRunner
from mochi.serving.server import Server, wait_for_models
from mochi.serving.services import MakeRunner, Services, open_services
from mochi.serving.settings import ServeSettings

FAKE = [sys.executable, str(Path(__file__).with_name("fake_child.py"))]
PROMPT = "a red circle moves left"
HELD = "circle /held"  # a run that goes on until it is cancelled


def fake_runner(device: str, models: Any) -> ProcessRunner:
    return ProcessRunner(device, models, FAKE)


class Running:
    """A server that answers: its services, and clients for it."""

    def __init__(self, services: Services, url: str):
        self.services = services
        self.url = url
        self.http = self.client()

    def client(self, token: str | None = None, **more: Any) -> httpx.Client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120.0, **more)

    def create(
        self, prompt: str = PROMPT, wait: int | None = None, **fields: Any
    ) -> dict[str, Any]:
        headers = {} if wait is None else {"Prefer": f"wait={wait}"}
        body = {"input": {"prompt": prompt, **fields}}
        answer = self.http.post("/v1/predictions", json=body, headers=headers)
        assert answer.status_code in (201, 202), answer.text
        return dict(answer.json())

    def get(self, job_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/v1/predictions/{job_id}").json())

    def ended(self, job_id: str) -> dict[str, Any]:
        return until(lambda: (job := self.get(job_id)).get("completed_at") and job)


@contextmanager
def running(
    data: Path, make_runner: MakeRunner = fake_runner, **settings: Any
) -> Iterator[Running]:
    # Whoever waits here asks a hundred times a second.
    usual = {"stop_seconds": 0, "requests_per_minute": 0}
    services = open_services(ServeSettings(data=data, **{**usual, **settings}), make_runner)
    server, thread = None, None
    try:
        services.start()
        wait_for_models(services)
        listener = socket.create_server(("127.0.0.1", 0))
        server = Server(services)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until(lambda: server.started)
        place = Running(services, f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield place
        place.http.close()
    finally:
        if server is not None and thread is not None:
            server.stop()
            thread.join()
        services.close()


def until(condition: Callable[[], Any], seconds: float = 300.0, every: float = 0.01) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError("it did not happen in time")


def events_of(client: httpx.Client, address: str, **headers: str) -> list[tuple[str, str, str]]:
    """Id, name and data of each event, until the stream ends."""
    found, event = [], {"id": "", "event": "", "data": ""}
    with client.stream("GET", address, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                event[name] = (
                    event["data"] + "\n" + value if event.get(name) and name == "data" else value
                )
            elif event["event"]:
                found.append((event["id"], event["event"], event["data"]))
                event = {"id": "", "event": "", "data": ""}
    return found
