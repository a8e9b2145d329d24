"""What a run takes and how its networks are held, known before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from mochi.core.sizes import VideoSize
from mochi.memory.available import available_bytes, host_available_bytes, process_bytes
from mochi.memory.bounds import decode_bound, denoise_bound
from mochi.memory.estimate import (
    decode_working,
    denoise_working,
    encode_working,
    inside_convolutions,
    inside_kernels,
    table_bytes,
    text_working,
)
from mochi.memory.fit import check_fits, largest_fitting
from mochi.memory.modes import MODES, Mode
from mochi.memory.need import Need, Stage, Weights, blocks_need, whole_need
from mochi.memory.plan import Plan, Room, asked_name, choose
from mochi.memory.rates import Rates
from mochi.pipeline.job import Job
from mochi.pipeline.parts import PARTS, PartName, Parts
from mochi.pipeline.timing import Clock

STAGE_PARTS: dict[Stage, PartName] = {
    "text": "text",
    "denoise": "dit",
    "decode": "decoder",
    "encode": "encoder",
}
"""The network of each stage."""

_MIB = 2**20
_IMPORTED_WITH_TEXT, _OF_IT_IMPORTED_TO_TRACE = 105 * _MIB, 65 * _MIB
"""What transformers 5 brings along, and how much of it a trace has brought already."""

_LIBRARY_PAGES = 24 * _MIB
"""Of PyTorch's code, what is looked at for the first time while a run goes on."""


class Budget:
    """Plans the stages of runs on one device. Weights that are loaded already cost nothing.

    Methods that look at a network raise `WeightsError` where its files are unusable.

    Attributes:
        asked: the mode that was asked for; None leaves it to the plan.
        rates: how fast this machine is, by the name of a dtype; without them plans tell no time.
        sharers: processes that share the host's memory alike, this one among them.
    """

    def __init__(self, parts: Parts, asked: Mode | None = None):
        self._parts = parts
        self.asked: Mode | None = "high" if asked is None and not parts.precision.exact else asked
        self.rates: dict[str, Rates] = {}
        self.sharers = 1
        self._announced = ""

    @property
    def room(self) -> Room:
        """Bytes that device and host can still give."""
        device = self._parts.device
        host = host_available_bytes() // self.sharers
        if device.type == "cpu":
            return Room(host, host, True)
        return Room(available_bytes(device), host, False)

    def check(self, size: VideoSize, with_text: bool = True) -> None:
        """Refuse a video that does not fit.

        Raises:
            DoesNotFitError: says which stage, how much, and what would fit.
        """
        self.plan(Job(size, prompts=(256,) if with_text else ()))

    def check_round_trip(self, size: VideoSize) -> None:
        """Refuse a video that does not fit through the VAE; raises as `check`."""
        self.plan(Job(size, encodes=True))

    def plan(self, job: Job, *, exact: bool = False) -> Plan:
        """How to run a job.

        Args:
            job: what is to be done.
            exact: estimate every stage, also where a bound shows that there is room for all.

        Raises:
            DoesNotFitError: a stage has no room; says how much it takes, and what would fit.
        """
        plan = self.sketch(job, exact=exact)
        if not plan.fits:
            room = plan.room
            check_fits(
                lambda it: self.chosen(replace(job, size=it), room), job.size, room, self._device
            )
        return plan

    def sketch(self, job: Job, *, exact: bool = False) -> Plan:
        """As `plan`, but what has no room is told, not refused."""
        room = self.room
        if self.asked is None and not exact:
            bounds = self._bounds(job)
            if bounds is not None and all(map(room.has_easily, bounds)):
                return self._plan(job, bounds, room, self.asked)
        return self._plan(job, self.chosen(job, room), room, self.asked)

    def compare(self, job: Job) -> dict[str, Plan]:
        """The plan of every mode by its name, and that of `auto`; none is refused."""
        room = self.room
        asked = (None, *MODES)
        options = {mode: self.in_mode(job, mode) for mode in MODES}
        return {
            asked_name(mode): self._plan(job, choose(options, room, mode), room, mode)
            for mode in asked
        }

    def arrange(self, plan: Plan, tell: Callable[[str], None] | None = None) -> None:
        """Hold the networks as a plan says, from their next use on, and say so if it is news."""
        if tell is not None and plan.mode != self._announced:
            self._announced = plan.mode
            tell(plan.announcement)
        for need in plan.needs:
            self._parts.hold(STAGE_PARTS[need.stage], need.mode)

    def needs(self, size: VideoSize, with_text: bool = True) -> list[Need]:
        """What text, denoising and decoding of a video of this size take, as they would be run."""
        job = Job(size, prompts=(256,) if with_text else ())
        return list(self.chosen(job, self.room))

    def largest(self, size: VideoSize) -> VideoSize | None:
        """The largest video up to `size` that fits, or None."""
        room = self.room
        return largest_fitting(lambda it: self.chosen(Job(it), room), size, room)

    def chosen(self, job: Job, room: Room) -> tuple[Need, ...]:
        """What the stages take in the modes that are best for this room."""
        return choose({mode: self.in_mode(job, mode) for mode in MODES}, room, self.asked)

    def in_mode(self, job: Job, mode: Mode) -> tuple[Need, ...]:
        """What the stages take, all in one mode."""
        stages = [self._encode(job, mode)] if job.encodes else self._until_decode(job, mode)
        needs = [*stages, self._decode(job, mode)]
        if mode == "high":
            return tuple(self._together(needs))
        return tuple(needs)

    def decodes_beside(self, size: VideoSize) -> bool:
        """Whether decoding fits into what is free now, with everything that is loaded."""
        need, room = self._decode(Job(size), "high"), self.room
        return room.has_easily(need)

    @property
    def _device(self) -> str:
        return str(self._parts.device)

    def _plan(self, job: Job, needs: Sequence[Need], room: Room, asked: Mode | None) -> Plan:
        own, mapped = process_bytes()
        mapped += _LIBRARY_PAGES
        if job.prompts and "transformers.models.t5.modeling_t5" not in sys.modules:
            own += _IMPORTED_WITH_TEXT
            own -= _OF_IT_IMPORTED_TO_TRACE if "sympy" in sys.modules else 0
        fits = all(map(room.has, needs))
        needs, program = tuple(needs), (own, mapped)
        return Plan(job.size, self._device, asked_name(asked), needs, room, program, fits)

    def _until_decode(self, job: Job, mode: Mode) -> list[Need]:
        found = [self._text(job, mode)] if job.prompts else []
        return found + ([self._denoise(job, mode)] if job.steps else [])

    def _text(self, job: Job, mode: Mode) -> Need:
        blueprint = self._parts.blueprint("text")
        working = text_working(blueprint.config, blueprint.dtype, max(job.prompts))
        need = blocks_need("text", blueprint.weights, mode, working, on_cpu=self._on_cpu)
        clock = self._clock("text", need)
        return replace(need, seconds=clock.text(blueprint, job)) if clock else need

    def _denoise(self, job: Job, mode: Mode) -> Need:
        blueprint, on_cpu = self._parts.blueprint("dit"), self._on_cpu
        config, dtype = blueprint.config, blueprint.dtype
        kind = self._parts.device.type
        working = denoise_working(config, dtype, job.size, job.passes, kind)
        working += inside_kernels(working, kind)
        tables = table_bytes(config, dtype, job.steps, job.passes)
        need = blocks_need(
            "denoise", blueprint.weights, mode, working, on_cpu=on_cpu, kept=tables
        ).beside(self._parts.loras.nbytes(dtype), 0)
        clock = self._clock("dit", need)
        return replace(need, seconds=clock.denoise(blueprint, job, mode)) if clock else need

    def _decode(self, job: Job, mode: Mode) -> Need:
        blueprint = self._parts.blueprint("decoder")
        config, dtype, kind = blueprint.config, blueprint.dtype, self._parts.device.type
        working = decode_working(config, dtype, job.size)
        working += inside_convolutions(config, dtype, working, kind)
        need = whole_need("decode", blueprint.weights, mode, working, on_cpu=self._on_cpu)
        clock = self._clock("decoder", need)
        return replace(need, seconds=clock.decode(blueprint, job)) if clock else need

    def _encode(self, job: Job, mode: Mode) -> Need:
        blueprint = self._parts.blueprint("encoder")
        config, dtype, kind = blueprint.config, blueprint.dtype, self._parts.device.type
        working = encode_working(config, dtype, job.size)
        working += inside_convolutions(config, dtype, working, kind)
        need = whole_need("encode", blueprint.weights, mode, working, on_cpu=self._on_cpu)
        clock = self._clock("encoder", need)
        return replace(need, seconds=clock.encode(blueprint, job)) if clock else need

    def _bounds(self, job: Job) -> list[Need] | None:
        """The stages in `high`, each at least as large as it is; None where there is no bound."""
        if job.encodes:
            return None
        vae, kind = self._parts.blueprint("decoder").config, self._parts.device.type
        decode = decode_bound(vae, job.size)
        decode += inside_convolutions(vae, torch.float32, decode, kind)
        working = {"decode": decode}
        if job.steps:
            config, dtype = self._parts.blueprint("dit").config, torch.float32
            tables = table_bytes(config, dtype, job.steps, job.passes)
            bound = denoise_bound(config, job.size, len(job.passes))
            bound += inside_kernels(bound, kind)
            working["denoise"] = bound + tables + self._parts.loras.nbytes(dtype)
        if job.prompts:
            t5 = self._parts.blueprint("text").config
            working["text"] = text_working(t5, torch.float32, max(job.prompts))
        order: tuple[Stage, ...] = ("text", "denoise", "decode")
        needs = [Need(stage, 0, working[stage]) for stage in order if stage in working]
        return self._together([self._weighed(need) for need in needs])

    def _weighed(self, need: Need) -> Need:
        """With the weights of its network, as `high` holds them."""
        weights = self._parts.blueprint(STAGE_PARTS[need.stage]).weights
        if need.stage == "decode":
            whole = whole_need("decode", weights, "high", 0, on_cpu=self._on_cpu)
            return need.beside(whole.weights, whole.mapped)
        return need.beside(*_resident(weights, self._on_cpu))

    def _together(self, needs: Sequence[Need]) -> list[Need]:
        """Each stage with the weights of the networks of the other stages in memory as well."""
        weights = [need.weights for need in needs]
        mapped = [need.mapped for need in needs]
        return [
            need.beside(sum(weights) - need.weights, sum(mapped) - need.mapped) for need in needs
        ]

    @property
    def _on_cpu(self) -> bool:
        return self._parts.device.type == "cpu"

    def _clock(self, name: PartName, need: Need) -> Clock | None:
        rates = self.rates.get(str(self._parts.blueprint(name).dtype))
        if rates is None:
            return None
        room = self.room
        held = need.host + (need.total if room.on_cpu else 0)
        files = self._parts.files.part(PARTS[name])
        return Clock(rates, files, room.on_cpu, max(0, room.host - held))


def _resident(weights: Weights, on_cpu: bool) -> tuple[int, int]:
    if on_cpu and weights.in_place:
        return 0, weights.stored.total
    return weights.ready.total, 0
