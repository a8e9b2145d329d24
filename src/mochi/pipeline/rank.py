"""A rank: a process that makes its share of videos, told by a supervisor what to do.

It is told `start` once, then `run` for each video; `cancel` at any time. It says `ready`, then for
each video `event`s, `frames` and `done`, or `stopped`, or `failed`; and every second a `beat`.
"""

from __future__ import annotations

import queue
import warnings
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch._C._distributed_c10d import PrefixStore, Store

import mochi
from mochi.core.errors import Cancelled, RankError
from mochi.core.events import CancelToken, Event, Notice, OnEvent, StepDone, ignore
from mochi.memory.available import available_bytes, host_available_bytes
from mochi.parallel.channel import Failure
from mochi.parallel.group import Group, Traffic
from mochi.parallel.meeting import LOOPBACK, check_ways, compare
from mochi.parallel.mesh import Mesh
from mochi.parallel.pulse import Pulse
from mochi.parallel.scheme import Scheme
from mochi.parallel.supervised import Say, keep_beating, supervised
from mochi.parallel.world import World
from mochi.pipeline.order import LoraOrder, Opening, Order
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.sharding import WeightShards
from mochi.pipeline.share import OnMesh
from mochi.pipeline.watch import Watch

_PATIENCE = timedelta(hours=12)
"""In exchanges: one rank may read prompts for long. The watchdog finds one that hangs."""


def main() -> None:
    """Serve the supervisor at stdin and stdout; the process ends when that one goes."""
    inbox = Inbox()
    start, say = supervised(inbox.put)
    serve(start["opening"], inbox, say)


class Inbox:
    """What a rank is told, in order; to stop, at once."""

    def __init__(self) -> None:
        self.token = CancelToken()
        self._orders: queue.Queue[Order] = queue.Queue()

    def put(self, kind: str, content: Mapping[str, Any]) -> None:
        """Take a message of the supervisor's."""
        if kind == "cancel":
            self.token.cancel()
        elif kind == "run":
            self.token = CancelToken()
            self._orders.put(content["order"])

    def next(self) -> Order:
        """Wait for the next order."""
        return self._orders.get()


def serve(opening: Opening, inbox: Inbox, say: Say) -> None:
    """Open the model, then make videos for as long as the process lives."""
    pulse = Pulse(busy=True)
    keep_beating(pulse, say)
    try:
        rank = Rank(opening, pulse, say)
    except Exception as error:
        say("failed", failure=Failure.of(error))
        return
    say("ready", room=rank.room)
    while True:
        pulse.busy = False
        order = inbox.next()
        pulse.busy = True
        rank.make(order, inbox.token)


class Rank:
    """One rank with its model open.

    Raises:
        RankError: the others do not come, or are not like this one.
        WeightsError: the model is not usable here.
    """

    def __init__(self, opening: Opening, pulse: Pulse, say: Say):
        self.opening, self._say = opening, say
        if opening.version != mochi.__version__:
            rule = f"has mochi {mochi.__version__}, and its supervisor {opening.version}"
            raise RankError(f"rank {opening.rank} {rule}", opening.rank)
        device = torch.device(opening.device)
        torch.set_num_threads(opening.threads)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self._address = opening.meeting.address(wide=opening.together < opening.size)
        self._store: Store = opening.meeting.join(opening.come_seconds)
        self.pipe = Pipeline(
            opening.files,
            opening.card,
            name=opening.name,
            device=device,
            precision=opening.precision,
        )
        self.pipe.budget.sharers = opening.together
        self._compare("hello", self._about())
        self._check_ways()
        self._world = World(
            PrefixStore("groups", self._store),
            opening.rank,
            opening.size,
            device,
            _PATIENCE,
            self._address,
            pulse,
        )
        self._meshes: dict[Scheme, Mesh] = {}
        if opening.shard:
            everyone = Group(range(opening.size), self._world, "weights", Traffic())
            self.pipe.parts.shards = WeightShards(everyone)
        warnings.showwarning = self._tell_warning

    @property
    def room(self) -> tuple[int, int]:
        """Bytes that the device and the host can give."""
        return available_bytes(self.pipe.device), host_available_bytes()

    @property
    def leads(self) -> bool:
        """Whether this is the first rank."""
        return self.opening.rank == 0

    def make(self, order: Order, cancel: CancelToken) -> None:
        """Make this rank's share of a video, and say how that ended."""
        try:
            facts = self._made(order, cancel)
        except Cancelled:
            self._say("stopped")
        except BaseException as error:
            self._say("failed", failure=Failure.of(error))
            if not isinstance(error, Exception):
                raise
        else:
            self._say("done", facts=facts)

    def _made(self, order: Order, cancel: CancelToken) -> dict[str, Any]:
        self._compare(f"order/{order.number}", order.facts())
        mesh = self._mesh(order.scheme)
        share = OnMesh(mesh, self.pipe.device, cancel, order.modes)
        self.pipe.share, self.pipe.parts.speed = share, order.speed
        self._wear(order.loras)
        if self.leads and order.prompts:
            share.hold(self.pipe.parts)
            self.pipe.read_ahead(order.prompts)
        watch = Watch(self._tell if self.leads else ignore, share.cancel)
        inputs = order.inputs if self.leads else replace(order.inputs, preview=False)
        run = self.pipe.prepare_run(order.request, inputs, watch)
        facts = self.pipe.finish_run(run, self._give)
        return facts if self.opening.reports else {}

    def _about(self) -> dict[str, str]:
        files = self.opening.files
        return {
            "the version of mochi": mochi.__version__,
            "the version of torch": torch.__version__.partition("+")[0],
            "the model's weights": files.fingerprint()[:16],
            "the kind of device": self.opening.device.partition(":")[0],
            "the precision": str(self.pipe.parts.blueprint("dit").dtype),
        }

    def _compare(self, name: str, facts: Mapping[str, str]) -> None:
        opening = self.opening
        compare(self._store, name, opening.rank, opening.size, facts, opening.come_seconds)

    def _check_ways(self) -> None:
        opening, address = self.opening, self._address
        if address != LOOPBACK:
            check_ways(self._store, opening.rank, opening.size, address, opening.come_seconds)

    def _mesh(self, scheme: Scheme) -> Mesh:
        if scheme not in self._meshes:
            store = PrefixStore(str(scheme), self._world.store)
            self._meshes[scheme] = Mesh.join(scheme, replace(self._world, store=store))
        return self._meshes[scheme]

    def _wear(self, wanted: tuple[LoraOrder, ...]) -> None:
        """Put on what the supervisor's model wears."""
        loras = self.pipe.parts.loras
        known = {lora.name: lora for lora in wanted}
        for worn in list(loras):
            lora = known.get(worn.name)
            if lora is None or (lora.sha256, lora.mode) != (worn.sha256, worn.mode):
                loras.remove(worn.name)
            elif lora.scale != worn.scale:
                loras.set_scale(worn.name, lora.scale)
        there = {worn.name for worn in loras}
        for lora in wanted:
            if lora.name not in there:
                loras.add(lora.path, lora.source, lora.scale, lora.name, lora.mode)

    def _tell(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.preview is not None:
            picture = event.preview()
            self._say("event", event=replace(event, preview=None), picture=picture)
        else:
            self._say("event", event=event, picture=None)

    def _give(self, frames: np.ndarray) -> None:
        self._say("frames", frames=frames)

    def _tell_warning(self, message: Warning | str, *_: Any, **__: Any) -> None:
        if self.leads:
            self._tell(Notice(f"warning: {message}"))


def retold(tell: OnEvent, content: Mapping[str, Any]) -> None:
    """In the supervisor: an event that a rank told of."""
    event, picture = content["event"], content["picture"]
    if picture is not None:
        event = replace(event, preview=lambda: picture)
    tell(event)
