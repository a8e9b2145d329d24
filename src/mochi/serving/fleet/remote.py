"""A replica as its server sees it: a runner among the others, and a hand to stop it by."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from mochi.serving.runner.protocol import (
    Description,
    Listen,
    LoraEntry,
    RunFailedError,
    RunnerDiedError,
    RunnerState,
)

_LOOK_SECONDS = 5.0
_STOP_SECONDS = 60.0


class RemoteRunner:
    """The runner of a replica. It takes its jobs from the queue itself: `run` is not for us."""

    def __init__(self, name: str, actor: Any):
        self._actor = actor
        self._state = RunnerState(f"ray-{name}", "ray", "starting", "waits for a machine")

    @property
    def state(self) -> RunnerState:
        """As it was last seen."""
        return self._state

    def see(self, seen: Mapping[str, Any] | None) -> None:
        """Remember a look; None: it did not answer."""
        if seen is None:
            self._state = replace(self._state, reason="does not answer")
            return
        found = {name: Description(**it) for name, it in seen["descriptions"].items()}
        device = f"ray {seen['device']}"
        self._state = RunnerState(
            self._state.name, device, seen["state"], seen["reason"], seen["model"], found
        )

    def gone(self, reason: str) -> None:
        """It will not come back."""
        self._state = replace(self._state, state="stopped", reason=reason)

    def start(self) -> None:
        """It starts by itself."""

    def run(
        self,
        job_id: str,
        model: str,
        request: Mapping[str, Any],
        path: Path,
        listen: Listen,
        beside: Sequence[str] = (),
    ) -> Mapping[str, Any]:
        """Never: raises RunnerDiedError."""
        raise RunnerDiedError("a replica takes its jobs from the queue")

    def cancel(self, job_id: str) -> None:
        """It learns of a cancellation by its lease."""

    def has_lora(self, model: str, name: str) -> bool:
        """Always: a replica finds them by itself."""
        return True

    def offer(self, model: str, lora: LoraEntry) -> None:
        """A replica finds them by itself."""

    def ask(self, kind: str, timeout: float = 10.0, **question: Any) -> Mapping[str, Any]:
        """A question beside a run; see `Runner`."""
        try:
            answer = ray.get(self._actor.ask.remote(kind, timeout, question), timeout=timeout)
        except RayError as error:
            raise RunnerDiedError(_first_line(error)) from None
        if "error" not in answer:
            return dict(answer)
        if answer["code"] is None:
            raise RunnerDiedError(answer["error"])
        raise RunFailedError(answer["code"], answer["error"])

    def close(self) -> None:
        """See `RemoteWorker.stop`."""


class RemoteWorker:
    """What a server holds in place of a `Worker`: an actor, and its room on a machine.

    Attributes:
        runner: for whoever asks the server how its runners are.
    """

    def __init__(self, name: str, actor: Any, room: PlacementGroup | None):
        self.name = name
        self.runner = RemoteRunner(name, actor)
        self._actor = actor
        self._room = room
        self._look: Any = None
        self._asked = 0.0
        self._seen = False  # before that it may still wait for a machine
        self._idle_since: float | None = None

    @property
    def idle_seconds(self) -> float | None:
        """Since when it does nothing; None while it works or comes up."""
        return None if self._idle_since is None else time.monotonic() - self._idle_since

    def look(self) -> bool:
        """See how it is, without waiting for it; False: it is dead."""
        if self._look is None:
            self._look, self._asked = self._actor.look.remote(), time.monotonic()
        try:
            self.runner.see(ray.get(self._look, timeout=0.2))
            self._look, self._seen = None, True
        except GetTimeoutError:
            if self._seen and time.monotonic() - self._asked > _LOOK_SECONDS:
                self.runner.see(None)
        except RayActorError as error:
            self.runner.gone(_first_line(error))
            return False
        self._note_idleness()
        return True

    def stop(self, patience_seconds: float) -> None:
        """Let it end or hand back its job, then end it and give back its room."""
        if self._seen:
            with suppress(RayError):
                done = self._actor.stop.remote(patience_seconds)
                ray.get(done, timeout=patience_seconds + _STOP_SECONDS)
        self.runner.gone("it was stopped")
        self.bury()

    def bury(self) -> None:
        """Remove what is left of it in the cluster."""
        with suppress(RayError, ValueError):
            ray.kill(self._actor)
        if self._room is not None:
            with suppress(RayError, ValueError):
                remove_placement_group(self._room)

    def _note_idleness(self) -> None:
        if self.runner.state.state != "idle":
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
