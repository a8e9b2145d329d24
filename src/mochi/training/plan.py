"""What a training takes, known before it begins: memory and seconds a step, here and on GPUs.

Memory of activations is counted on the step that really runs, forward and back, on tensors without
contents, for two depths; all blocks are alike, so any depth follows. Seconds are operations over
rates: measured ones for this machine; for others the share of their makers' figures that the
published training reaches on an H100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mochi.core.config import DiTConfig
from mochi.core.errors import RequestError
from mochi.core.sizes import VideoSize
from mochi.memory.available import available_bytes
from mochi.memory.estimate import inside_kernels
from mochi.memory.rates import Rates, measure_rates
from mochi.memory.work import Work, forward_work
from mochi.model.adapters import linear_layers
from mochi.model.dit import AsymmDiT
from mochi.pipeline.opening import load
from mochi.training.adapter import chosen_layers
from mochi.training.config import Config
from mochi.training.data.dataset import open_dataset
from mochi.training.recompute import checkpointed
from mochi.training.traced import step_bytes
from mochi.weights.loading import load_dit
from mochi.weights.quantize import is_quantised

_GIB = 2**30
_BYTES = {"fp8": 1.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
_STATE = {"adamw": 8.0, "adamw8bit": 2.03, "muon": 4.0}
"""Bytes that an optimiser keeps of each number that learns."""

_BACKWARD_ATTENTION = 2.5
"""Products on the way back for each on the way there, where scores are not kept."""


@dataclass(frozen=True)
class Gpu:
    """A common GPU: its memory, and the operations a second that a training gets out of it."""

    name: str
    gib: float
    linear: float
    attention: float


_REACHED = 0.43
"""Share of a GPU's dense bfloat16 figure that whole training steps reach, norms and gates included:
what the published steps on an H100 reach, 1.67 s at 37 frames and 5.44 s at 85 (SPEC 6)."""

GPUS = tuple(
    Gpu(name, gib, _REACHED * tera * 1e12, _REACHED * tera * 1e12)
    for name, gib, tera in (
        ("RTX 4090", 24, 165),
        ("RTX 5090", 32, 210),
        ("L40S", 48, 362),
        ("A100 80 GB", 80, 312),
        ("H100", 80, 989),
        ("H200", 141, 989),
        ("B200", 180, 2250),
    )
)


@dataclass(frozen=True)
class Fit:
    """A device with a training on it; `seconds` is None where nobody knows its speed."""

    device: str
    gib: float
    fits: bool
    seconds: float | None


@dataclass(frozen=True)
class TrainingPlan:
    """What a training takes on one device.

    Attributes:
        bucket: the largest clips.
        rows: of them at a time.
        weights: bytes of the base.
        learning: bytes of what learns beside it, with the optimiser's state and the average.
        activations: bytes at the worst moment of a step, gradients included.
        trained: numbers that learn.
        here, elsewhere: devices.
    """

    bucket: str
    rows: int
    weights: int
    learning: int
    activations: int
    trained: int
    here: Fit
    elsewhere: tuple[Fit, ...]

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.learning + self.activations

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "total": self.total}

    def line(self) -> str:
        """The plan for this machine."""
        took = "" if self.here.seconds is None else f", about {self.here.seconds:.2g} s a step"
        enough = "" if self.here.fits else f"; {self.here.device} has {self.here.gib:.1f} GiB free"
        return (
            f"{self.trained:,} numbers learn; {self.total / _GIB:.2f} GiB for {self.rows} x "
            f"{self.bucket} at a time{took}{enough}"
        )

    def text(self) -> str:
        """All of it, for people."""
        parts = ("weights", "learning", "activations")
        lines = [self.line(), ""]
        lines += [f"  {name:<12}{getattr(self, name) / _GIB:8.2f} GiB" for name in parts]
        lines += ["", f"  {'device':<14}{'memory':>10}  {'fits':<6}seconds a step"]
        for fit in (self.here, *self.elsewhere):
            took = "unknown" if fit.seconds is None else f"{fit.seconds:.2f}"
            fits = "yes" if fit.fits else "no"
            lines.append(f"  {fit.device:<14}{fit.gib:>6.0f} GiB  {fits:<6}{took}")
        lines += [
            "",
            "  Of GPUs: at the share of their figures that published steps reach.",
        ]
        return "\n".join(lines)


def plan_training(
    config: Config, device: str = "auto", devices: int = 1, rates: Rates | None = None
) -> TrainingPlan:
    """Plan the training of a config on this machine; no weight is read.

    Args:
        config: its data must be prepared.
        device: where.
        devices: how many share the batch.
        rates: of this machine, where they are known already.

    Raises:
        RequestError, WeightsError: as `finetune`, as far as no weights are needed.
    """
    if config.model.train == "decoder":
        rule = "has no plan: the decoder's training is small; start it"
        raise RequestError("model.train", "decoder", rule, "no --plan")
    pipe = load(config.model.name, device=device, dtype=config.model.dtype)
    dit = load_dit(pipe.files.part("dit"), "meta", pipe.parts.precision.networks)
    data = open_dataset(config.data.path)
    bucket = max(data.buckets, key=lambda it: it.size.latent.tokens)
    dtype = pipe.parts.blueprint("dit").dtype
    if rates is None and pipe.device.type == "cpu":
        rates = measure_rates(pipe.device, dtype)
    room = available_bytes(pipe.device)
    return make_plan(config, dit, dtype, bucket.size, str(pipe.device), room, rates, devices)


def make_plan(
    config: Config,
    dit: AsymmDiT,
    dtype: torch.dtype,
    size: VideoSize,
    device: str,
    room: int,
    rates: Rates | None,
    devices: int = 1,
) -> TrainingPlan:
    """The plan for a network without weights.

    Args:
        config: the training.
        dit: on the meta device, as the base is loaded.
        dtype: what it computes in.
        size: of the largest clips.
        device, room, rates: this machine's: name, free bytes, speed.
        devices: how many share the batch.
    """
    training, shape = config.training, dit.config
    share = -(-training.batch * training.context // devices)
    rows = -(-share // training.accumulate)
    twice = checkpointed(training.checkpointed_blocks, shape.depth)
    trained = trained_numbers(dit, config)
    full = config.model.train == "full"
    activations = step_bytes(config, shape, dtype, size, rows, twice)
    activations += inside_kernels(activations, torch.device(device).type)
    state = _STATE[config.optimiser.name] + (4 if config.optimiser.ema else 0)
    weights = 4 * sum(p.numel() for p in dit.parameters()) if full else _base_bytes(dit, config)
    weights //= devices if training.shard else 1
    learning = round(trained * (state + (0 if full else 4)))
    total = weights + learning + activations
    work = step_work(config, shape, size, twice) * (share / training.context)
    here = Fit(device, room / _GIB, total <= room, rates.seconds(work) if rates else None)
    elsewhere = tuple(
        Fit(
            gpu.name,
            gpu.gib,
            total <= gpu.gib * _GIB,
            work.linear / gpu.linear + work.attention / gpu.attention,
        )
        for gpu in GPUS
    )
    bucket = f"{size.frames}x{size.height}x{size.width}"
    return TrainingPlan(bucket, rows, weights, learning, activations, trained, here, elsewhere)


def trained_numbers(dit: AsymmDiT, config: Config) -> int:
    """How many numbers learn."""
    if config.model.train == "full":
        return sum(parameter.numel() for parameter in dit.parameters())
    layers: Sequence[Any] = list(chosen_layers(dit, config.lora.layers).values())
    return sum(config.lora.rank * (it.in_features + it.out_features) for it in layers)


def step_work(config: Config, shape: DiTConfig, size: VideoSize, twice: int) -> Work:
    """Operations of one clip in one step: there, back, and there again for `twice` blocks."""
    forward = forward_work(shape, size, shape.text_tokens)
    again = twice / shape.depth
    gradients = 2 if config.model.train == "full" else 1
    return Work(
        forward.linear * (1 + again + gradients),
        forward.attention * (1 + again + _BACKWARD_ATTENTION),
    )


def _base_bytes(dit: AsymmDiT, config: Config) -> int:
    """Bytes of the base's weights, in the form that they are held in."""
    small = _BYTES.get(config.model.quantise)
    total = sum(t.numel() * t.element_size() for t in (*dit.parameters(), *dit.buffers()))
    if small is None:
        return total
    for name, layer in linear_layers(dit):
        weight = getattr(layer, "weight", None)
        if weight is not None and is_quantised("dit", f"{name}.weight"):
            total -= round(weight.numel() * (weight.element_size() - small))
    return total
