"""A replica: in an actor's process, a worker that takes jobs from the shared queue.

The device's work is done in the runner's child process, as on a server; the actor answers questions
about it. When the actor dies, its child's stdin ends, and with it the child.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mochi.core.errors import MochiError
from mochi.serving.bus import open_bus
from mochi.serving.configured import make_shelf, model_entries
from mochi.serving.offers import Offers
from mochi.serving.opening import database_url
from mochi.serving.runner.process import COMMAND, ProcessRunner
from mochi.serving.runner.protocol import ModelEntry, RunFailedError, RunnerDiedError
from mochi.serving.settings import ServeSettings
from mochi.serving.shelf import Shelf
from mochi.serving.store.audit import Audit
from mochi.serving.store.catalog import Catalog
from mochi.serving.store.database import Database
from mochi.serving.worker import Worker

UNATTENDED_SECONDS = 900.0


@dataclass(frozen=True)
class Post:
    """Where a replica works, and on what.

    Attributes:
        name: its own; its leases begin with `ray-NAME:`.
        settings: of its server: the database, the videos' place, the models.
        command: that starts the runner's child.
    """

    name: str
    settings: ServeSettings
    command: tuple[str, ...] = COMMAND

    @property
    def owner(self) -> str:
        """Who holds the leases of its jobs."""
        return f"ray-{self.name}"


class Replica:
    """What the actor is. Its methods answer at once, but for `stop`."""

    def __init__(self, post: Post):
        self._post = post
        self._work = tempfile.TemporaryDirectory(prefix="mochi-replica-")
        self._database = Database.open(database_url(post.settings))
        self._bus = open_bus(self._database.unflushed())
        self._entries = _on_ranks(post.settings)
        self._runner = ProcessRunner("auto", self._entries, post.command)
        self._attended = time.monotonic()
        self._stopped = threading.Event()
        self._worker = Worker(self._runner, self._shelf())
        self._worker.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def look(self) -> dict[str, Any]:
        """How it is, as `RunnerState` has it; whoever looks is there."""
        self._attended = time.monotonic()
        return asdict(self._runner.state)

    def ask(self, kind: str, timeout: float, question: Mapping[str, Any]) -> dict[str, Any]:
        """An answer of the runner, or `{"error": ..., "code": ...}`: errors of ours stay ours."""
        try:
            return dict(self._runner.ask(kind, timeout, **question))
        except RunFailedError as error:
            return {"error": str(error), "code": error.code}
        except RunnerDiedError as error:
            return {"error": str(error), "code": None}

    def stop(self, patience_seconds: float) -> None:
        """Claim nothing more, end the running job or hand it back, and be done."""
        self._stopped.set()
        self._worker.stop(patience_seconds)
        self._bus.close()
        self._database.close()
        self._work.cleanup()

    def _shelf(self) -> Shelf:
        database, audit = self._database, Audit(self._database)
        return make_shelf(
            self._post.settings,
            database,
            self._bus,
            Path(self._work.name),
            self._post.owner,
            Offers(self._entries, Catalog(database)),
            on_flag=audit.flagged,
        )

    def _watch(self) -> None:
        """Go when nobody has looked for long, and there is nothing to do: the server is gone."""
        while not self._stopped.wait(5.0):
            away = time.monotonic() - self._attended
            if away > UNATTENDED_SECONDS and self._runner.state.state != "busy":
                with suppress(MochiError):
                    self.stop(0.0)
                _leave()


def _on_ranks(settings: ServeSettings) -> tuple[ModelEntry, ...]:
    """The models, each on as many devices of the machine as the replica has ranks."""
    entries, ranks = model_entries(settings), 1 if settings.ray is None else settings.ray.ranks
    if ranks == 1:
        return entries
    return tuple(replace(it, options={**it.options, "devices": ranks}) for it in entries)


def _leave() -> None:
    import ray

    ray.kill(ray.get_runtime_context().current_actor)
