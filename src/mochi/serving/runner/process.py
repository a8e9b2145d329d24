"""A runner in a child process: JSON lines go in by its stdin and come out by its stdout.

The child ends when its stdin ends, so it never outlives a server, however that dies.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import IO, Any

import structlog

from mochi.core.errors import Cancelled
from mochi.serving.runner.protocol import (
    Description,
    Listen,
    LoraEntry,
    ModelEntry,
    RunFailedError,
    RunnerDiedError,
    RunnerState,
)

log = structlog.get_logger()
COMMAND = (sys.executable, "-m", "mochi.serving.runner.child")
_STOP_SECONDS = 5.0
_START_SECONDS = 600.0
_LASTING, _MOST_KNOWN = ("memory",), 1000  # answers that are the same as long as a child lives


class ProcessRunner:
    """A child process that owns one device and stays warm."""

    def __init__(
        self,
        device: str,
        models: Sequence[ModelEntry],
        command: Sequence[str] = COMMAND,
        stderr: int | IO[bytes] | None = None,
    ):
        self._models: Sequence[ModelEntry] = models
        self._command = list(command)
        self._stderr = stderr
        self._state = RunnerState(device, device, "starting")
        self._child: _Child | None = None
        self._lock = threading.Lock()

    @property
    def state(self) -> RunnerState:
        """How it is now."""
        if self._state.state in ("idle", "busy") and not (self._child and self._child.alive):
            self._failed("the runner died")
        return self._state

    @property
    def pid(self) -> int:
        """Of the child; 0 where there is none."""
        return self._child.pid if self._child is not None else 0

    def start(self) -> None:
        """Be ready to run.

        Raises:
            RunnerDiedError: the child did not come up; says what it said.
        """
        with self._lock:
            if self._child is not None and self._child.alive:
                return
            self._state = replace(self._state, state="starting", model=None)
            child = self._child = _Child(self._command, self._stderr)
        hello = {"device": self._state.device, "models": [asdict(entry) for entry in self._models]}
        try:
            child.send({"hello": hello})
            ready = child.ready.result(_START_SECONDS)
        except RunnerDiedError as error:
            self._failed(str(error))
            raise
        except FutureTimeout:
            child.kill()
            self._failed("it does not come up")
            raise RunnerDiedError("the runner does not come up") from None
        found = {item["name"]: Description(**item) for item in ready}
        self._state = replace(self._state, state="idle", reason="", descriptions=found)

    def run(
        self,
        job_id: str,
        model: str,
        request: Mapping[str, Any],
        path: Path,
        listen: Listen,
        beside: Sequence[str] = (),
    ) -> Mapping[str, Any]:
        """Make a video at `path`; see `Runner`."""
        child = self._alive()
        self._state = replace(self._state, state="busy", model=model)
        ended = child.begin(job_id, listen)
        order = {"id": job_id, "model": model, "request": dict(request), "path": str(path)}
        order["beside"] = list(beside)
        try:
            child.send({"run": order})
            return ended.result()
        except RunnerDiedError as error:
            self._failed(str(error))
            raise
        finally:
            if child.over(job_id) and self._state.state == "busy":
                self._state = replace(self._state, state="idle")

    def cancel(self, job_id: str) -> None:
        """Stop the run of this job within a step, if it is on."""
        child = self._child
        if child is not None:
            with suppress(RunnerDiedError):
                child.send({"cancel": job_id})

    def ask(self, kind: str, timeout: float = 10.0, **question: Any) -> Mapping[str, Any]:
        """A question beside a run; see `Runner`."""
        child = self._alive()
        if not child.ready.done():
            raise RunnerDiedError("the runner is starting")
        key = (kind, *question.values())
        if key in child.known:
            return child.known[key]
        try:
            answer = child.ask({"kind": kind, **question}).result(timeout)
        except FutureTimeout:
            raise RunnerDiedError(f"no answer within {timeout:.0f} s") from None
        if kind in _LASTING and len(child.known) < _MOST_KNOWN:
            child.known[key] = answer
        return answer

    def has_lora(self, model: str, name: str) -> bool:
        """Whether it was told of this adapter of a model."""
        return any(entry.name == model and name in entry.lora_scales for entry in self._models)

    def offer(self, model: str, lora: LoraEntry) -> None:
        """One more adapter, now and after the child's death."""
        self._models = [
            replace(entry, loras=(*entry.loras, lora)) if entry.name == model else entry
            for entry in self._models
        ]
        child = self._child
        if child is not None:
            with suppress(RunnerDiedError):
                child.send({"offer": {"model": model, "lora": asdict(lora)}})

    def close(self) -> None:
        """Stop now: politely, then not."""
        with self._lock:
            child, self._child = self._child, None
        self._state = replace(self._state, state="stopped")
        if child is not None:
            child.close()

    def _alive(self) -> _Child:
        child = self._child
        if child is None or not child.alive:
            raise RunnerDiedError(self._state.reason or "the runner is not up")
        return child

    def _failed(self, reason: str) -> None:
        self._state = replace(self._state, state="failed", reason=reason, model=None)


class _Child:
    """The process, and the thread that reads what it says."""

    def __init__(self, command: Sequence[str], stderr: int | IO[bytes] | None):
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is the server's to handle
        )
        self.known: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        self.ready: Future[list[dict[str, Any]]] = Future()
        self._runs: dict[str, tuple[Listen, Future[Mapping[str, Any]]]] = {}
        self._answers: dict[int, Future[Mapping[str, Any]]] = {}
        self._numbers = count()
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="runner", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None and self._reader.is_alive()

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises RunnerDiedError where nobody reads."""
        assert self._process.stdin is not None
        try:
            with self._lock:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()
        except (OSError, ValueError):
            self._reader.join(_STOP_SECONDS)
            raise RunnerDiedError(self._how_it_ended()) from None

    def begin(self, job_id: str, listen: Listen) -> Future[Mapping[str, Any]]:
        ended: Future[Mapping[str, Any]] = Future()
        self._runs[job_id] = listen, ended
        return ended

    def over(self, job_id: str) -> bool:
        """A run is over; whether it was the last one."""
        self._runs.pop(job_id, None)
        return not self._runs

    def ask(self, question: Mapping[str, Any]) -> Future[Mapping[str, Any]]:
        answer: Future[Mapping[str, Any]] = Future()
        number = next(self._numbers)
        self._answers[number] = answer
        self.send({"ask": {"number": number, **question}})
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(_STOP_SECONDS)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                try:
                    self._hear(json.loads(line))
                except Exception:  # a line cut off by a kill, or a listener's mistake
                    log.exception("runner_line_lost")
        self._process.wait()
        death = RunnerDiedError(self._how_it_ended())
        runs = [ended for _, ended in list(self._runs.values())]
        waiting: list[Future[Any]] = [self.ready, *runs, *self._answers.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(death)

    def _hear(self, message: Mapping[str, Any]) -> None:
        (kind, content), *_ = message.items()
        if kind == "ready":
            self.ready.set_result(content)
        elif kind == "broken":
            self.ready.set_exception(RunnerDiedError(content))
        elif kind in ("event", "done", "failed"):
            self._hear_run(kind, content)
        elif kind == "answer":
            answer = self._answers.pop(content.pop("number"))
            if "code" in content:
                answer.set_exception(RunFailedError(content["code"], content["message"]))
            else:
                answer.set_result(content)

    def _hear_run(self, kind: str, content: dict[str, Any]) -> None:
        known = self._runs.get(content.pop("id"))
        if known is None:
            return
        listen, ended = known
        if kind == "event":
            listen(content["kind"], content["data"])
        elif kind == "done":
            ended.set_result(content)
        else:
            ended.set_exception(_error(content))

    def _how_it_ended(self) -> str:
        code = self._process.poll()
        if code is None:
            return "the runner no longer listens"
        if code < 0:
            return f"the runner was ended by signal {-code}" + (
                "; out of memory?" if code == -9 else ""
            )
        return f"the runner ended with code {code}"


def _error(content: Mapping[str, str]) -> Exception:
    if content["code"] == "cancelled":
        return Cancelled("cancelled")
    return RunFailedError(content["code"], content["message"])
