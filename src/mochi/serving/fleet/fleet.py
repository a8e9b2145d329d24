"""The fleet: as many replicas on a Ray cluster as the queue has work for.

The actors are detached and bear the server's name in their namespace: a server that is killed finds
them again when it is started, still at work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
import structlog
from ray.exceptions import RayError
from ray.util.placement_group import get_placement_group, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mochi.core.errors import MochiError, RequestError
from mochi.serving.bell import JOBS
from mochi.serving.bus import EventBus
from mochi.serving.fleet.remote import RemoteWorker
from mochi.serving.fleet.replica import Post, Replica
from mochi.serving.fleet.settings import FleetSetting, superfluous, wanted
from mochi.serving.jobs import new_id
from mochi.serving.offers import Offers
from mochi.serving.store.queue import SqlStore

log = structlog.get_logger()
_SECONDS = 0.5
_PAUSE_SECONDS, _LONGEST_PAUSE = 2.0, 120.0
_OWN = ("CPU", "GPU", "memory")  # Ray has words of its own for these


class Fleet:
    """A thread that looks at the queue and at the replicas, and makes or ends some."""

    def __init__(
        self,
        setting: FleetSetting,
        instance: str,
        make_post: Callable[[str], Post],
        store: SqlStore,
        offers: Offers,
        bus: EventBus,
    ):
        """Join the cluster.

        Args:
            setting: how many, and of what.
            instance: the server's own name.
            make_post: what a replica of this name is told.
            store: the queue.
            offers: told what replicas find in the models' files.
            bus: rung when a dead replica's jobs wait again.

        Raises:
            RequestError: the cluster does not answer.
        """
        self.workers: list[RemoteWorker] = []
        self._setting = setting
        self._space = f"mochi-{instance}"
        self._make_post = make_post
        self._store = store
        self._offers = offers
        self._bus = bus
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="fleet")
        self._pause, self._not_before = _PAUSE_SECONDS, 0.0
        self._replica = ray.remote(Replica)
        _join(setting.address, self._space)

    def start(self) -> None:
        """Find the replicas of an earlier process, and begin."""
        self.workers += self._found()
        self._thread.start()

    def stop(self, patience_seconds: float) -> None:
        """Stop all replicas, each of which ends or hands back its job."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        stops = [
            threading.Thread(target=worker.stop, args=(patience_seconds,))
            for worker in self.workers
        ]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()
        self.workers.clear()
        ray.shutdown()

    def round(self) -> None:
        """Look at all, bury the dead, and come nearer to what is wanted."""
        for worker in list(self.workers):
            if not worker.look():
                self._lost(worker)
            elif worker.runner.state.descriptions:
                self._offers.learn(worker.runner)
                self._pause = _PAUSE_SECONDS
        counts = self._store.counts()
        waiting, running = counts.get("starting", 0), counts.get("processing", 0)
        known = bool(self._offers.all())
        want = wanted(self._setting, waiting, running, models_known=known)
        if time.monotonic() >= self._not_before:
            for _ in range(want - len(self.workers)):
                self._add()
        idle = [worker.idle_seconds for worker in self.workers]
        for worker in [self.workers[index] for index in superfluous(idle, want, self._setting)]:
            self.workers.remove(worker)
            threading.Thread(target=worker.stop, args=(0.0,), daemon=True).start()
            log.info("replica_goes", name=worker.name, why="idle")

    def _loop(self) -> None:
        while not self._stopping.wait(_SECONDS):
            try:
                self.round()
            except (MochiError, RayError) as error:
                log.warning("fleet_waits", reason=str(error))
            except Exception:
                log.exception("fleet_failed")

    def _add(self) -> None:
        name = new_id()[:12]
        room = placement_group(
            [self._setting.bundle], strategy="STRICT_PACK", name=name, lifetime="detached"
        )
        options = {
            "name": name,
            "namespace": self._space,
            "lifetime": "detached",
            "max_concurrency": 8,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(room),
            **_options(self._setting.bundle),
        }
        actor = self._replica.options(**options).remote(self._make_post(name))
        self.workers.append(RemoteWorker(name, actor, room))
        log.info("replica_comes", name=name, replicas=len(self.workers))

    def _found(self) -> list[RemoteWorker]:
        listed = ray.util.list_named_actors(all_namespaces=True)
        names = [it["name"] for it in listed if it["namespace"] == self._space]
        found = []
        for name in names:
            with suppress(ValueError):  # it died in between
                actor = ray.get_actor(name, namespace=self._space)
                found.append(RemoteWorker(name, actor, _room(name)))
        if found:
            log.info("replicas_found", count=len(found))
        return found

    def _lost(self, worker: RemoteWorker) -> None:
        """Its process is gone, or cut off: what it was making waits again, its lease is worth
        nothing any more."""
        self.workers.remove(worker)
        returned = self._store.release(f"ray-{worker.name}:")
        reason = worker.runner.state.reason
        log.warning("replica_lost", name=worker.name, jobs_taken_back=returned, reason=reason)
        worker.bury()
        if not worker.runner.state.descriptions:  # it never came up: the next may not either
            self._not_before = time.monotonic() + self._pause
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
        if returned:
            self._bus.ring(JOBS)


def _join(address: str, space: str) -> None:
    try:
        ray.init(
            address=address,
            namespace=space,
            ignore_reinit_error=True,
            log_to_driver=False,
            configure_logging=False,
            include_dashboard=False if address == "local" else None,
        )
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError("ray.address", address, f"cannot be joined: {cause}") from error


def _options(bundle: dict[str, float]) -> dict[str, Any]:
    """Resources in the words of `Actor.options`."""
    own: dict[str, Any] = {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0)}
    if "memory" in bundle:
        own["memory"] = bundle["memory"]
    other = {name: amount for name, amount in bundle.items() if name not in _OWN}
    return own | ({"resources": other} if other else {})


def _room(name: str) -> Any:
    try:
        return get_placement_group(name)
    except ValueError:
        return None
