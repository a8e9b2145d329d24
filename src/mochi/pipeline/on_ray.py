"""Ranks as actors of a Ray cluster: one for each device, on as many machines as it takes.

Ray is an extra: `pip install mochi-video[ray]`. Where no cluster runs, one is started on this
machine for as long as this process lives.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from mochi.core.errors import RankError, RequestError
from mochi.parallel.crew import Message, Ranks
from mochi.pipeline.order import Opening
from mochi.pipeline.rank import Inbox, serve
from mochi.pipeline.team import Layout

_HEAR_SECONDS, _MOST_MESSAGES, _PLACE_SECONDS = 1.0, 64, 60.0


def ray_layout(count: int, device: str) -> Layout:
    """Room for ranks in a cluster, reserved until this process ends.

    Args:
        count: how many.
        device: `cuda` or `auto` for GPUs, `cpu` for processors.

    Raises:
        RequestError: Ray is not installed, the cluster has not so many devices, or `device` is one.
        RankError: the cluster does not give them.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise RequestError("device", device, "is one device", "cuda, cpu or auto")
    ray = _ray()
    _connect(ray, count)
    kind = "CPU" if device == "cpu" else "GPU"
    there = int(ray.cluster_resources().get(kind, 0))
    if there < count:
        rule = f"are more than the Ray cluster has: {there} x {kind}"
        nearest = f"{there}" if there else "--device cpu"
        raise RequestError("devices", count, rule, nearest)
    bundle = {"CPU": 1.0} | ({"GPU": 1.0} if kind == "GPU" else {})
    group = ray.util.placement_group([bundle] * count, strategy="PACK")
    try:
        ray.get(group.ready(), timeout=_PLACE_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        free = int(ray.available_resources().get(kind, 0))
        raise RankError(
            f"the Ray cluster has {free} x {kind} free of {there}, and {count} are needed "
            f"(waited {_PLACE_SECONDS:.0f} s)"
        ) from error
    nodes = ray.util.placement_group_table(group)["bundles_to_node_id"]
    order = sorted(range(count), key=lambda bundle: (nodes[bundle], bundle))
    each = Counter(nodes.values())
    name = "cpu" if kind == "CPU" else "cuda:0"  # Ray shows an actor its own GPU alone

    def launch(openings: Mapping[int, Opening]) -> Ranks:
        return RayRanks(ray, group, {rank: order[rank] for rank in openings}, openings)

    return Layout(
        dict.fromkeys(range(count), name),
        count,
        machines=len(each),
        together=max(each.values()),
        host=str(ray.util.get_node_ip_address()),
        launch=launch,
    )


class RayRanks:
    """Ranks in the bundles of a placement group.

    Args:
        ray: the package.
        group: the placement group.
        bundles: where each rank goes.
        openings: what each is told first.
    """

    def __init__(
        self, ray: Any, group: Any, bundles: Mapping[int, int], openings: Mapping[int, Opening]
    ):
        self._ray = ray
        self._pending: dict[int, Any] = {}
        self._gone: set[int] = set()
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        self._actors: dict[int, Any] = {}
        for rank, opening in openings.items():
            gpus = 0 if opening.device == "cpu" else 1
            actor = ray.remote(RankActor).options(
                num_cpus=1,
                num_gpus=gpus,
                max_concurrency=4,
                scheduling_strategy=strategy(group, placement_group_bundle_index=bundles[rank]),
            )
            self._actors[rank] = actor.remote(opening)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Their numbers."""
        return tuple(self._actors)

    @property
    def pids(self) -> dict[int, int]:
        """Their processes, each on its machine."""
        return {rank: self._ray.get(actor.pid.remote()) for rank, actor in self._actors.items()}

    def say(self, rank: int, kind: str, **content: Any) -> None:
        """Tell a rank; one that has gone will be found by `poll`."""
        self._actors[rank].tell.remote(kind, content)

    def poll(self, seconds: float) -> list[Message]:
        """What they say; `ended`, with a `reason`, is the last that is heard of one."""
        for rank, actor in self._actors.items():
            if rank not in self._gone and rank not in self._pending:
                self._pending[rank] = actor.hear.remote()
        if not self._pending:
            time.sleep(seconds)
            return []
        here, _ = self._ray.wait(list(self._pending.values()), num_returns=1, timeout=seconds)
        found: list[Message] = []
        for rank in [rank for rank, ref in self._pending.items() if ref in here]:
            found += self._heard(rank, self._pending.pop(rank))
        return found

    def end(self) -> None:
        """End all actors."""
        for actor in self._actors.values():
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor, no_restart=True)
        self._gone.update(self._actors)
        self._pending.clear()

    def _heard(self, rank: int, ref: Any) -> Sequence[Message]:
        try:
            return [(rank, kind, content) for kind, content in self._ray.get(ref)]
        except self._ray.exceptions.RayError as error:
            self._gone.add(rank)
            words = " ".join(str(error).split())
            return [(rank, "ended", {"reason": f"ended: {words}"})]


class RankActor:
    """A rank inside a process of Ray's."""

    def __init__(self, opening: Opening):
        self._inbox = Inbox()
        self._said: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        threading.Thread(target=serve, args=(opening, self._inbox, self._say), daemon=True).start()

    def tell(self, kind: str, content: Mapping[str, Any]) -> None:
        """Take a message of the supervisor's."""
        self._inbox.put(kind, content)

    def hear(self) -> list[tuple[str, dict[str, Any]]]:
        """What the rank has said since; waits a second for something."""
        found = []
        with suppress(queue.Empty):
            found.append(self._said.get(timeout=_HEAR_SECONDS))
            while len(found) < _MOST_MESSAGES:
                found.append(self._said.get_nowait())
        return found

    def pid(self) -> int:
        """Of this process."""
        return int(os.getpid())

    def _say(self, kind: str, **content: Any) -> None:
        self._said.put((kind, content))


def _ray() -> Any:
    try:
        ray = import_module("ray")
        import_module("ray.util.scheduling_strategies")
    except ImportError as error:
        rule = "needs Ray, which is not installed: pip install mochi-video[ray]"
        raise RequestError("launcher", "ray", rule) from error
    return ray


def _connect(ray: Any, count: int) -> None:
    """To the cluster that there is, else to one of this process."""
    if ray.is_initialized():
        return
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        processors = max(count, os.cpu_count() or 1)
        ray.init(num_cpus=processors, include_dashboard=False, **quiet)
