"""A pipeline whose videos are made by several processes, one for each device.

This process is none of them: it plans, tells them what to do, hears them, and writes the output. So
it can end them all at any time, whatever they do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch

from mochi.core.errors import RequestError
from mochi.core.request import GenerateRequest
from mochi.memory.modes import Mode
from mochi.memory.need import Need, sharded_need
from mochi.memory.plan import Room
from mochi.parallel.channel import travels
from mochi.parallel.choice import AUTO, Choice, Circumstances, choose
from mochi.parallel.frames import share_bytes
from mochi.parallel.shares import shares
from mochi.pipeline.budget import STAGE_PARTS, Budget
from mochi.pipeline.clip import Rendered
from mochi.pipeline.defaults import ModelCard
from mochi.pipeline.job import Job
from mochi.pipeline.latents import StoredLatents
from mochi.pipeline.order import LoraOrder, Opening, Order
from mochi.pipeline.parts import PartName, Parts, Precision
from mochi.pipeline.pipeline import Pipeline, RequestSettings
from mochi.pipeline.rank import retold
from mochi.pipeline.run import Inputs, Run, TakeFrames
from mochi.pipeline.share import Alone
from mochi.pipeline.team import Layout, Team
from mochi.pipeline.watch import Watch
from mochi.weights.folder import ModelFiles


class ParallelPipeline(Pipeline):
    """One model on several devices that share each video.

    Use `close`, or a `with` block, to end its processes before it goes itself.

    Attributes:
        team: its ranks.
        parallel: the scheme that was asked for, or `auto`.
        shard: whether each rank keeps only a part of the transformer's weights.
    """

    def __init__(
        self,
        files: ModelFiles,
        card: ModelCard,
        *,
        name: str,
        layout: Layout,
        precision: Precision,
        memory: Mode | None = None,
        parallel: str = AUTO,
        shard: bool = False,
    ):
        device = torch.device(next(iter(layout.devices.values())))
        super().__init__(files, card, name=name, device=device, precision=precision, memory=memory)
        opening = partial(
            Opening, files=files, card=card, name=name, precision=precision, shard=shard
        )
        self.team = Team(layout, opening)
        self.parallel, self.shard = parallel, shard
        self.budget: RanksBudget = RanksBudget(self.parts, memory, self.team, shard)
        self._ahead: tuple[str, ...] = ()
        self._orders = self._drawn = 0
        self._end = weakref.finalize(self, self.team.close)
        self.choice(guided=True)  # a scheme that cannot be is refused now

    def __enter__(self) -> ParallelPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; the next video starts them anew."""
        self.team.close()

    def choice(self, guided: bool) -> Choice:
        """How the devices would share a video, and why.

        Raises:
            RequestError: what was asked for cannot be.
        """
        layout = self.team.layout
        heads = self.parts.blueprint("dit").config.heads
        asked = self.parallel
        about = Circumstances(layout.size, layout.machines, heads, guided, layout.link)
        return choose(asked, about)

    def request(
        self, prompt: str | GenerateRequest, **settings: Unpack[RequestSettings]
    ) -> GenerateRequest:
        """As `Pipeline.request`; a seed that nobody said is the same for all ranks."""
        like = settings.get("like") or {}
        if isinstance(prompt, str) and settings.get("seed") is None and "seed" not in like:
            self._drawn += 1
            drawn = str(super().request(prompt, **settings).seed)
            settings["seed"] = int(self.team.agreed(f"seed/{self._drawn}", drawn))
        return super().request(prompt, **settings)

    def prepare_prompts(self, prompts: Sequence[str]) -> None:
        """Let the rank that reads prompts read all of these with the next one."""
        self._ahead = tuple(prompts)

    def prepare_run(self, request: GenerateRequest, inputs: Inputs, watch: Watch) -> Run:
        if not travels(inputs.wrap):
            rule = "cannot be sent to other processes: it has to be a function of a module"
            raise RequestError("wrap", inputs.wrap, rule)
        shared = _Shared()
        run = Run(self.parts, self._prompts, self.budget, request, inputs, watch, shared)
        scales = run.schedule.guidance
        guided = scales != 1.0 if not isinstance(scales, tuple) else set(scales) != {1.0}
        choice = self.choice(guided)
        if self.shard and choice.scheme.guidance > 1 and request.step_cache != "off":
            rule = "takes all ranks through all blocks, and a step cache leaves some out on a half"
            raise RequestError("shard", True, rule, "--parallel with guidance=1, or no step cache")
        self.budget.ranks = choice.scheme.ulysses * choice.scheme.ring
        shared.choice = choice
        run.prepare()
        watch.notice(choice.why)
        return run

    def finish_run(self, run: Run, take: TakeFrames) -> dict[str, Any]:
        assert isinstance(run.share, _Shared)
        crew = self.team.crew()
        self._orders += 1
        order = self._order(run, run.share)

        def hear(rank: int, kind: str, content: dict[str, Any]) -> None:
            if kind == "event":
                retold(run.watch.on_event, content)
            elif kind == "frames":
                take(content["frames"])

        crew.tell("run", order=order)
        answers = crew.collect("done", hear, run.watch.cancel)
        crew.part(self._orders)
        facts = answers[min(answers)]["facts"]
        record = self._record(run)
        run.watch.seconds.update(facts["seconds"])
        latents = facts["latents"]
        return facts | {
            "request": run.request,
            "record": record,
            "latents": StoredLatents(latents.latent, latents.sigma, record),
            "seconds": run.watch.seconds,
        }

    def generate_to(self, path: str | Path, prompt: Any, **settings: Any) -> Rendered:
        """As `Pipeline.generate_to`; only the process with the first rank writes the file."""
        if self.team.layout.leads:
            return super().generate_to(path, prompt, **settings)
        settings.pop("overwrite", None)
        clip = super().generate(prompt, **settings)
        facts = {name: value for name, value in vars(clip).items() if name != "frames"}
        return Rendered(**facts)

    def _order(self, run: Run, shared: _Shared) -> Order:
        ahead, self._ahead = self._ahead, ()
        assert shared.choice is not None
        return Order(
            number=self._orders,
            request=run.request,
            inputs=run.inputs,
            scheme=shared.choice.scheme,
            modes=shared.modes,
            speed=self.parts.speed,
            loras=tuple(
                LoraOrder(w.path, w.source, w.name, w.scale, w.mode, w.sha256)
                for w in self.parts.loras
            ),
            prompts=ahead,
        )


class _Shared(Alone):
    """The `Share` of a supervisor: it plans, and computes nothing."""

    def __init__(self) -> None:
        self.choice: Choice | None = None
        self.modes: dict[PartName, Mode] = {}

    def arrange(self, budget: Budget, job: Job, parts: Parts, tell: Callable[[str], None]) -> None:
        plan = budget.plan(job)
        self.modes = {STAGE_PARTS[need.stage]: need.mode for need in plan.needs}
        budget.arrange(plan, tell)


class RanksBudget(Budget):
    """A budget for each of several ranks alike.

    Attributes:
        ranks: how many share the tokens of one pass.
    """

    def __init__(self, parts: Parts, asked: Mode | None, team: Team, shard: bool = False):
        super().__init__(parts, asked)
        self._team, self._shard = team, shard
        self.ranks, self.sharers = 1, team.layout.together

    @property
    def room(self) -> Room:
        """What the poorest rank had when it started, since it may hold weights by now, which are
        part of every plan. Those of one machine share its memory."""
        on_cpu = self._on_cpu
        if on_cpu and not self._team.rooms:
            return super().room
        if not on_cpu:
            self._team.crew()
        devices, hosts = zip(*self._team.rooms.values(), strict=True)
        host = min(hosts) // self.sharers
        return Room(host if on_cpu else min(devices), host, on_cpu)

    def _decode(self, job: Job, mode: Mode) -> Need:
        need, blueprint = super()._decode(job, mode), self._parts.blueprint("decoder")
        shape = job.size.latent.shape(1, blueprint.config.latent_channels)
        itemsize, ranks = blueprint.dtype.itemsize, self._team.layout.size
        share = share_bytes(blueprint.config, shape, itemsize, self._parts.device, ranks)
        return replace(need, working=max(need.working, share))

    def _denoise(self, job: Job, mode: Mode) -> Need:
        need = super()._denoise(job, mode)
        if self._shard:
            weights = self._parts.blueprint("dit").weights
            adapters = self._parts.loras.nbytes(self._parts.blueprint("dit").dtype)
            need = sharded_need(need, weights, self._team.layout.size).beside(adapters, 0)
        if self.ranks == 1:
            return need
        # A rank has its share of the tokens, and as much again twice while they change places.
        tokens = job.size.latent.tokens
        mine = shares(tokens, self.ranks)[0]
        blueprint = self._parts.blueprint("dit")
        moved = 9 * mine * blueprint.config.visual_width * blueprint.dtype.itemsize
        return replace(need, working=min(need.working, need.working * mine // tokens + moved))
