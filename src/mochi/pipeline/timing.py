"""How long each stage takes: its operations at this machine's rates, its weights on their way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mochi.core.config import T5Size
from mochi.memory.modes import Mode
from mochi.memory.need import Weights
from mochi.memory.pages import cached_bytes
from mochi.memory.rates import Rates
from mochi.memory.work import (
    Work,
    decode_work,
    encode_work,
    forward_work,
    modulation_work,
    text_work,
)
from mochi.pipeline.facts import Blueprint
from mochi.pipeline.job import Job


@dataclass(frozen=True)
class Clock:
    """Tells the time of stages.

    Attributes:
        rates: of the precision that the stage computes in.
        files: those of its network.
        on_cpu: whether it computes there.
        free: bytes of the host's memory that may hold pages of files.
    """

    rates: Rates
    files: Sequence[Path]
    on_cpu: bool
    free: int

    def text(self, blueprint: Blueprint, job: Job) -> float:
        """Every prompt through T5, the weights once."""
        size: T5Size = blueprint.config
        work = sum((text_work(size, tokens) for tokens in job.prompts), start=Work())
        weights = blueprint.weights
        return self.rates.seconds(work) + self._brought(weights) + self._read(weights)

    def denoise(self, blueprint: Blueprint, job: Job, mode: Mode) -> float:
        """All steps, and the modulation before them."""
        config, weights = blueprint.config, blueprint.weights
        passes = (forward_work(config, job.size, tokens) for tokens in job.passes)
        step = self.rates.seconds(sum(passes, start=Work()))
        if mode in ("low", "minimal"):
            again = self._read_again(weights)
            brought = self._brought(weights) * weights.ready.blocks / weights.ready.total
            step = step + brought + again if self.on_cpu else max(step, brought + again)
        once = modulation_work(config, job.steps * len(job.passes))
        return job.steps * step + self.rates.seconds(once) + self._read(weights)

    def decode(self, blueprint: Blueprint, job: Job) -> float:
        """A whole video."""
        work = decode_work(blueprint.config, job.size)
        return self.rates.seconds(work) + self._read(blueprint.weights)

    def encode(self, blueprint: Blueprint, job: Job) -> float:
        """A whole video."""
        work = encode_work(blueprint.config, job.size)
        return self.rates.seconds(work) + self._read(blueprint.weights)

    def _brought(self, weights: Weights) -> float:
        """All weights converted, or copied to the device."""
        if self.on_cpu and weights.in_place:
            return 0.0
        return weights.ready.total / self.rates.copy

    def _read(self, weights: Weights) -> float:
        """From the disk, what the system's cache has not got."""
        if not self.rates.disk:
            return 0.0
        missing = weights.stored.total - sum(map(cached_bytes, self.files))
        return max(0, missing) / self.rates.disk

    def _read_again(self, weights: Weights) -> float:
        """In each step, what does not stay in the system's cache from one to the next."""
        if not self.rates.disk:
            return 0.0
        return max(0, weights.stored.blocks - self.free) / self.rates.disk
