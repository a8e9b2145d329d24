"""A client for a Mochi server: the same requests as in this process, made elsewhere.

```python
client = mochi.Client("http://127.0.0.1:8000")
job = client.submit("a red circle moves left on a black background", seed=0)
job.wait(on_event=print)
job.save("circle.mp4")
```
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mochi.core.errors import (
    Cancelled,
    DoesNotFitError,
    MochiError,
    OutputError,
    RequestError,
    SamplingError,
    WeightsError,
)
from mochi.core.events import CancelToken, OnEvent, ignore
from mochi.serving.told import Relay, Told, parse

if TYPE_CHECKING:
    import httpx

THEIRS = {"frames": "num_frames", "steps": "num_inference_steps", "guidance": "guidance_scale"}
_OURS = {theirs: ours for ours, theirs in THEIRS.items()}
_TRIES = 5
_QUIET_SECONDS = 40.0
_LOOK_SECONDS = 0.1
_ENDINGS = {".mp4": None, ".gif": "gif", ".png": "last_frame"}
_ERRORS: dict[str, type[MochiError]] = {
    "does_not_fit": DoesNotFitError,
    "sampling": SamplingError,
    "bad_weights": WeightsError,
}


class ServerError(MochiError):
    """A server cannot be reached, refuses, or failed at a job; the message says what it said."""


class Client:
    """A Mochi server.

    Args:
        url: its address.
        token: where it wants one.
        timeout_seconds: of each request.

    Raises:
        RequestError: the address is none.
    """

    def __init__(self, url: str, token: str | None = None, timeout_seconds: float = 60.0):
        try:
            import httpx
        except ImportError:
            needs = "needs packages that are not here: pip install 'mochi-video[serve]'"
            raise RequestError("server", url, needs) from None
        if not url.startswith(("http://", "https://")):
            raise RequestError("server", url, "is no address", "http://127.0.0.1:8000")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout_seconds
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; jobs go on."""
        self._http.close()

    def submit(
        self, prompt: str, *, model: str | None = None, preset: str | None = None, **settings: Any
    ) -> RemoteJob:
        """Enqueue a video. The settings are those of `Pipeline.generate`; None is "not said".

        Raises:
            RequestError: a setting breaks a rule.
            ServerError: the server does not answer, or refuses.
        """
        key = secrets.token_hex(16)  # a repeat after a lost answer must not make two
        body = {"input": _input(prompt, preset, settings)} | ({"version": model} if model else {})
        answer = self.ask("POST", "/v1/predictions", body, {"Idempotency-Key": key})
        return RemoteJob(self, answer)

    def job(self, job_id: str) -> RemoteJob:
        """A job that was enqueued before; raises ServerError where there is none."""
        return RemoteJob(self, self.ask("GET", f"/v1/predictions/{job_id}"))

    def estimate(
        self, prompt: str, *, preset: str | None = None, **settings: Any
    ) -> dict[str, Any]:
        """What a video would take: seconds, memory, price, its place in the queue; raises as
        `submit`."""
        return self.ask("POST", "/v1/estimates", {"input": _input(prompt, preset, settings)})

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request of the server's routes; returns its JSON. Repeated where that is safe.

        Raises:
            RequestError, ServerError: as `submit`.
        """
        import httpx

        for attempt in range(_TRIES):
            try:
                answer = self._http.request(method, path, json=body, headers=headers)
            except httpx.HTTPError as error:
                if attempt + 1 == _TRIES:
                    raise ServerError(f"{self._http.base_url}: {error}") from error
            else:
                if answer.status_code != 503 or attempt + 1 == _TRIES:
                    return _content(answer)
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """A long answer, read as it comes; raises ServerError."""
        import httpx

        timeout = httpx.Timeout(10.0, read=_QUIET_SECONDS)
        with self._http.stream("GET", path, headers=headers, timeout=timeout) as answer:
            if answer.is_error:
                answer.read()
                _content(answer)
            yield answer


class RemoteJob:
    """A video that a server makes.

    Attributes:
        prediction: what the server said of it last, as docs/serving.md describes it.
    """

    def __init__(self, client: Client, prediction: dict[str, Any]):
        self._client = client
        self.prediction = prediction

    @property
    def id(self) -> str:
        """The server's name of it."""
        return str(self.prediction["id"])

    @property
    def status(self) -> str:
        """As last heard: starting, processing, succeeded, failed or canceled."""
        return str(self.prediction["status"])

    def refresh(self) -> dict[str, Any]:
        """Ask how it is; raises ServerError."""
        self.prediction = self._client.ask("GET", f"/v1/predictions/{self.id}")
        return self.prediction

    def events(self, *, previews: bool = False) -> Iterator[Told]:
        """What happens until its end. A lost connection is taken up where it broke.

        Raises:
            ServerError: the server is gone for good, or the job is.
        """
        import httpx

        path = f"/v1/predictions/{self.id}/events?previews={int(previews)}"
        last, failures = "", 0
        while True:
            try:
                headers = {"Last-Event-ID": last} if last else {}
                with self._client.stream(path, headers) as answer:
                    for event_id, told in parse(answer.iter_lines()):
                        last, failures = event_id or last, 0
                        yield told
                        if told.type == "done":
                            return
            except httpx.HTTPError as error:
                if failures == _TRIES:
                    raise ServerError(f"the server is gone: {error}") from error
            failures += 1
            time.sleep(0.2 * 2**failures)
            self.refresh()  # it answers, and the job is still there

    def wait(self, on_event: OnEvent = ignore, cancel: CancelToken | None = None) -> dict[str, Any]:
        """Wait for its end, hearing the same events as of a run in this process.

        Args:
            on_event: hears phases, steps, frames and notices.
            cancel: ends the job on the server.

        Returns:
            The prediction.

        Raises:
            Cancelled: it was cancelled, here or elsewhere.
            DoesNotFitError, SamplingError, WeightsError, ServerError: it failed.
        """
        relay = Relay(on_event)
        with self._ended_by(cancel):
            for told in self.events():
                relay.tell(told)
        self.refresh()
        if self.status == "canceled":
            raise Cancelled(self.prediction["error"] or "cancelled")
        if self.status == "failed":
            code, _, words = str(self.prediction["error"]).removeprefix("[").partition("] ")
            raise _ERRORS.get(code, ServerError)(words or code)
        return self.prediction

    @contextmanager
    def _ended_by(self, cancel: CancelToken | None) -> Iterator[None]:
        """Meanwhile the token ends the job, also while nothing is heard of it."""
        if cancel is None:
            yield
            return
        over = threading.Event()

        def look() -> None:
            while not over.wait(_LOOK_SECONDS):
                if cancel.cancelled:
                    with suppress(MochiError):  # the events end too, or say what is wrong
                        self.cancel()
                    return

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield
        finally:
            over.set()
            looking.join()

    def cancel(self) -> None:
        """End it now; raises ServerError."""
        self.prediction = self._client.ask("POST", f"/v1/predictions/{self.id}/cancel")

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Fetch what it made: .mp4, .gif, or .png for the last frame.

        Raises:
            RequestError: another ending.
            OutputError: it exists, or cannot be written; no partial file stays.
            ServerError: there is no output, or the server does not give it.
        """
        target = Path(path)
        if target.suffix.lower() not in _ENDINGS:
            raise RequestError("output", str(path), "has no ending that a server gives", ".mp4")
        if target.exists() and not overwrite:
            raise OutputError(f"{target}: exists already")
        variant = _ENDINGS[target.suffix.lower()]
        made = (self.prediction["variants"] or {}).get(variant) if variant else None
        address = made or self.prediction["output"]
        if address is None:
            raise ServerError(f"{self.id} has no output: it is {self.status}")
        self._fetch(address, target)
        return target

    def _fetch(self, address: str, target: Path) -> None:
        import httpx

        part = target.with_name(f".{target.name}.mochi-part")
        try:
            with self._client.stream(address) as answer, part.open("wb") as file:
                for piece in answer.iter_bytes():
                    file.write(piece)
            os.replace(part, target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
        except httpx.HTTPError as error:
            raise ServerError(f"the output did not arrive: {error}") from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _input(prompt: str, preset: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    given = {"prompt": prompt, "preset": preset, **settings}
    return {THEIRS.get(name, name): value for name, value in given.items() if value is not None}


def _content(answer: httpx.Response) -> dict[str, Any]:
    """The JSON of an answer.

    Raises:
        RequestError: a field breaks a rule: the first one that the server names.
        ServerError: any other refusal.
    """
    if answer.is_success:
        return dict(answer.json())
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    for entry in problem.get("invalid_fields", []):
        name = entry["field"].removeprefix("input.")
        rule, nearest = entry["description"], entry.get("nearest")
        raise RequestError(_OURS.get(name, name), "...", rule, nearest)
    words = problem.get("detail") or answer.reason_phrase
    raise ServerError(f"the server says {answer.status_code}: {words}")
