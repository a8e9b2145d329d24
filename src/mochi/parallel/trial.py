"""Guided steps and messages on ranks of this machine, timed and counted.

The network has the sizes of a model and weights drawn at random: no weights are needed, and the
time is that of any others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from mochi.core.config import DiTConfig
from mochi.model.dit import AsymmDiT
from mochi.parallel.channel import Failure
from mochi.parallel.crew import Crew
from mochi.parallel.formulae import step_bytes
from mochi.parallel.local import LocalRanks, rank_channel
from mochi.parallel.meeting import Meeting, hold_meeting
from mochi.parallel.mesh import Mesh
from mochi.parallel.predict import Link, guided_walks, latent_tokens
from mochi.parallel.pulse import Pulse
from mochi.parallel.scheme import Scheme
from mochi.parallel.shares import shares
from mochi.parallel.supervised import keep_beating
from mochi.parallel.world import World

PROGRAM = "mochi.parallel.trial"
_SIGMA = 0.5


@dataclass(frozen=True)
class Trial:
    """One guided step, done a few times.

    Attributes:
        config: sizes of the transformer.
        scheme: how the first ranks share it. With one device, every rank does the whole step at
            the same time as the others.
        latent: shape of the latent, `(B, C, T, H, W)`.
        prompts: tokens of each prompt; one for a step without guidance.
        dtype: what the network computes in, as torch names it.
        overlap: whether communication goes on beside computation.
        repeats: timed steps; one before them is not timed.
    """

    config: DiTConfig
    scheme: Scheme
    latent: tuple[int, ...]
    prompts: tuple[int, ...]
    dtype: str = "float32"
    overlap: bool = True
    repeats: int = 3

    @property
    def together(self) -> bool:
        """Whether the passes of a step run as one batch, for sizes like these."""
        return _runs_together(self)

    @property
    def itemsize(self) -> int:
        """Bytes of a number in the blocks."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype.itemsize

    def expected(self, rank: int) -> dict[str, int]:
        """What a rank sends in a step."""
        walks = guided_walks(self.scheme, self.prompts, self.together)
        half = walks[rank // self.scheme.half]
        return step_bytes(self.config, self.scheme, rank, self.latent, half, self.itemsize)


@dataclass(frozen=True)
class Found:
    """What a rank found out.

    Attributes:
        seconds: of each timed step.
        sent: bytes of one step, by purpose.
    """

    seconds: tuple[float, ...]
    sent: dict[str, int]


def _runs_together(trial: Trial) -> bool:
    passes = 1 if trial.scheme.guidance == len(trial.prompts) > 1 else len(trial.prompts)
    tokens = latent_tokens(trial.config, trial.latent) * trial.latent[0]
    most = shares(tokens, trial.scheme.half)[0]
    with torch.device("meta"):
        return AsymmDiT(replace(trial.config, depth=1)).runs_together(passes * most)


def step(world: World, trial: Trial) -> Found:
    """Do a trial; called by each rank of a world of the scheme's size."""
    network = drawn(trial.config, getattr(torch, trial.dtype), world.device)
    mesh = Mesh.join(trial.scheme, world)
    shared = mesh.install(network)
    shared.exchange.overlap = trial.overlap
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(trial.latent, generator=draw).to(world.device)
    seconds = []
    with torch.no_grad():
        contexts = [shared.prepare_text(*_prompt(trial, count, world)) for count in trial.prompts]
        tables = shared.prepare_steps([_SIGMA], contexts)
        for _ in range(trial.repeats + 1):
            mesh.traffic.reset()
            _meet(mesh, world.device)
            began = time.perf_counter()
            shared.velocities(z, _SIGMA, contexts, tables)
            _settle(world.device)
            seconds.append(time.perf_counter() - began)
    sent = {name: size for name, size in mesh.traffic.sent.items() if name != _MEETING}
    return Found(tuple(seconds[1:]), sent)


def drawn(config: DiTConfig, dtype: torch.dtype, device: torch.device) -> AsymmDiT:
    """A network with random weights, the same on every rank."""
    with torch.device("meta"):
        network = AsymmDiT(config)
    network = network.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    draw = torch.Generator(device).manual_seed(0)
    for parameter in network.parameters():
        parameter.normal_(std=0.02, generator=draw)
    return network


_MEETING = "meeting"


def _meet(mesh: Mesh, device: torch.device) -> None:
    """Begin at the same time."""
    one = torch.zeros(1, dtype=torch.uint8, device=device)
    mesh.everyone.share(one, [(1,)] * mesh.everyone.size, _MEETING)
    _settle(device)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _prompt(trial: Trial, count: int, world: World) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(count)
    config = trial.config
    text = torch.randn(1, config.text_tokens, config.text_features, generator=draw)
    mask = torch.arange(config.text_tokens) < count
    kind: torch.dtype = getattr(torch, trial.dtype)
    rows = trial.latent[0]
    mask_BL = mask.expand(rows, -1).to(world.device)
    return text.expand(rows, -1, -1).to(world.device, kind), mask_BL


def link(world: World, sizes: Sequence[int], repeats: int = 5) -> Link:
    """What the way between the ranks of a world can do, if all of them send at once.

    Args:
        world: of two or more.
        sizes: bytes that each rank sends in a message to each other: a small and a large number.
        repeats: timed messages of each size; the median counts.
    """
    group = Mesh.join(Scheme(ulysses=world.size), world).everyone
    taken = []
    for size in sizes:
        parts = [torch.ones(size, dtype=torch.uint8, device=world.device)] * world.size
        seconds = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            torch.cat(group.swap(parts, [(size,)] * world.size, _MEETING).wait())
            _settle(world.device)
            seconds.append(time.perf_counter() - began)
        taken.append(sorted(seconds[1:])[repeats // 2])
    sent = [size * (world.size - 1) for size in sizes]
    rate = (sent[-1] - sent[0]) / max(taken[-1] - taken[0], 1e-9)
    return Link(rate, max(0.0, taken[0] - sent[0] / rate))


class Trials:
    """Ranks of this machine that do trials; a context, at whose end they are gone.

    Args:
        devices: where each rank computes, as torch names it.
        threads: of the processor, for each rank.

    Raises:
        RankError: a process cannot be started.
    """

    def __init__(self, devices: Sequence[str], threads: int = 1):
        self._store, meeting = hold_meeting()
        starts = {
            rank: {"meeting": meeting, "place": rank, "device": device, "threads": threads}
            for rank, device in enumerate(devices)
        }
        self._size, self._number = len(devices), 0
        self._crew = Crew(LocalRanks(PROGRAM, starts))

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._crew.end()

    def step(self, trial: Trial) -> list[Found]:
        """What each of the scheme's ranks finds; with one device, each of all ranks."""
        found = self._ask(step, trial.scheme.devices, trial)
        return found if trial.scheme.devices == 1 else found[: trial.scheme.devices]

    def link(self, sizes: Sequence[int], ranks: int | None = None) -> Link:
        """The slowest link between the first so many ranks, or between all."""
        found: list[Link] = self._ask(link, ranks or self._size, tuple(sizes))
        found = found[: ranks or self._size]
        return min(found, key=lambda each: each.bytes_per_second)

    def _ask(self, task: Callable[..., Any], ranks: int, argument: Any) -> list[Any]:
        self._number += 1
        order = {"number": self._number, "task": task.__name__, "ranks": ranks}
        self._crew.tell("trial", **order, argument=argument)
        found = self._crew.collect("found")
        return [found[rank]["found"] for rank in sorted(found)]


def main() -> None:
    """A rank: does the trials that the supervisor at stdin asks for."""
    channel, pulse = rank_channel(), Pulse()
    _, start = channel.hear()
    keep_beating(pulse, channel.say)
    torch.set_num_threads(start["threads"])
    try:
        _serve(channel, start, pulse)
    except (EOFError, OSError):  # the supervisor has gone
        os._exit(0)


_TASKS: dict[str, Callable[..., Any]] = {"step": step, "link": link}


def _serve(channel: Any, start: dict[str, Any], pulse: Pulse) -> None:
    meeting: Meeting = start["meeting"]
    rank, device = start["place"], torch.device(start["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = meeting.join()
    while True:
        pulse.busy = False
        _, order = channel.hear()
        pulse.busy = True
        ranks = order["ranks"]
        name, place = f"{order['number']}", rank
        if ranks == 1:
            name, place = f"{name}/{rank}", 0
        found = None
        if place < ranks:
            prefixed = PrefixStore(name, store)
            world = World(prefixed, place, ranks, device, address=meeting.address(), pulse=pulse)
            try:
                found = _TASKS[order["task"]](world, order["argument"])
            except Exception as error:
                channel.say("failed", failure=Failure.of(error))
                return
        channel.say("found", found=found)
