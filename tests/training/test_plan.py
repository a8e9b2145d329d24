"""A training's plan: what a step is said to hold is what it holds; more savings take less."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mochi.core.config import DiTConfig
from mochi.core.sizes import VideoSize
from mochi.memory.rates import Rates
from mochi.memory.trace import LiveBytes
from mochi.model.dit import AsymmDiT
from mochi.training.adapter import NewAdapter
from mochi.training.config import Config
from mochi.training.plan import GPUS, TrainingPlan, make_plan, step_work, trained_numbers
from mochi.training.precision import as_trainable
from mochi.training.recompute import Recomputing
from mochi.training.traced import step_bytes

SHAPE = DiTConfig(
    depth=5, heads=4, head_dim=32, visual_width=128, text_width=64, text_features=64, text_tokens=32
)
SIZE = VideoSize(13, 64, 64)
RATES = Rates(linear=1e12, attention=1e12, convolution=1e12, copy=1e9)


def config_of(train: str, **training: Any) -> Config:
    return Config.of({"model": {"train": train}, "training": {"batch": 2, **training}})


def held(config: Config, rows: int, twice: int) -> int:
    """The bytes that a real step makes and holds at its worst moment."""
    torch.manual_seed(0)
    dit = AsymmDiT(SHAPE).requires_grad_(False)
    if config.model.train == "lora":
        NewAdapter(dit, config.lora, 0)
    else:
        as_trainable(dit)
    dit.residency = Recomputing(twice)
    shape = SIZE.latent.shape(rows)
    noisy, target, text = torch.randn(shape), torch.randn(shape), torch.randn(rows, 32, 64)
    with LiveBytes() as count:
        velocity = dit(noisy, torch.rand(rows), text, torch.ones(rows, 32, dtype=torch.bool))
        (velocity - target).square().mean().backward()
    return count.peak


@pytest.mark.parametrize("train", ["lora", "full"])
@pytest.mark.parametrize("twice", [0, 2, 5])
def test_counted_without_contents_as_with_them(train: str, twice: int) -> None:
    config = config_of(train)
    planned = step_bytes(config, SHAPE, torch.float32, SIZE, 2, twice)
    # Real attention also keeps a thing or two that the stand-in does not.
    assert planned == pytest.approx(held(config, 2, twice), rel=0.2)


def planned(train: str = "lora", **training: Any) -> TrainingPlan:
    with torch.device("meta"):
        dit = AsymmDiT(SHAPE)
    config = config_of(train, **training)
    return make_plan(config, dit, torch.float32, SIZE, "cpu", 2**30, RATES)


def test_savings_save() -> None:
    plain = planned(checkpointed_blocks=0)
    assert planned(checkpointed_blocks="all").activations < plain.activations
    assert planned(checkpointed_blocks=0, accumulate=2).activations < plain.activations
    assert plain.here.seconds is not None
    twice = planned(checkpointed_blocks="all").here.seconds
    assert twice is not None
    assert 1.2 < twice / plain.here.seconds < 1.6
    assert planned("full").weights == 4 * planned("full").trained
    assert planned("full").learning == 8 * planned("full").trained
    assert plain.total == plain.weights + plain.learning + plain.activations
    assert json.dumps(plain.to_dict())
    assert "H100" in plain.text()


@pytest.mark.parametrize(("frames", "seconds"), [(37, 1.67), (85, 5.44)])
def test_the_published_steps_are_met(frames: int, seconds: float) -> None:
    """SPEC 6: an H100, rank 16, every block computed twice."""
    config, shape, size = config_of("lora", batch=1), DiTConfig(), VideoSize(frames, 480, 848)
    work = step_work(config, shape, size, shape.depth)
    gpu = next(gpu for gpu in GPUS if gpu.name == "H100")
    taken = work.linear / gpu.linear + work.attention / gpu.attention
    assert taken == pytest.approx(seconds, rel=0.03)


def test_a_small_base_is_counted_small() -> None:
    with torch.device("meta"):
        dit = AsymmDiT(SHAPE)
    found = {}
    for kind in ("none", "fp8", "q8_0", "q4_0"):
        config = Config.of({"model": {"quantise": kind}})
        found[kind] = make_plan(config, dit, torch.float32, SIZE, "cpu", 2**30, None).weights
    assert found["none"] > 2 * found["q8_0"] > 2 * found["fp8"] > 2 * found["q4_0"]


def test_numbers_that_learn_are_those_of_the_adapter() -> None:
    config = config_of("lora")
    dit = AsymmDiT(SHAPE)
    expected = trained_numbers(dit, config)
    adapter = NewAdapter(dit, config.lora, 0)
    assert sum(p.numel() for p in adapter.parameters.values()) == expected


PROGRAM = """
import json, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from tests.training.test_plan import LARGE, LARGE_SIZE, large_config
from mochi.model.dit import AsymmDiT
from mochi.training.adapter import NewAdapter
from mochi.training.recompute import Recomputing
torch.set_num_threads(1)
dit = AsymmDiT(LARGE).requires_grad_(False)
config = large_config()
NewAdapter(dit, config.lora, 0)
dit.residency = Recomputing(int(sys.argv[2]))
rows = 2
def most():  # not getrusage's: that begins with what the process which started this one held
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1]) * 1024
def step(frames):
    shape = (rows, 12, frames, *LARGE_SIZE.latent.shape(rows)[3:])
    text = torch.randn(rows, 16, LARGE.text_features)
    velocity = dit(torch.randn(shape), torch.rand(rows), text, torch.ones(rows, 16).bool())
    velocity.square().mean().backward()
step(1)
before = most()
step(LARGE_SIZE.latent.frames)
print(json.dumps(most() - before))
"""

LARGE = DiTConfig(
    depth=4,
    heads=8,
    head_dim=64,
    visual_width=512,
    text_width=256,
    text_features=256,
    text_tokens=16,
)
LARGE_SIZE = VideoSize(25, 256, 256)


def large_config() -> Config:
    return Config.of({"training": {"batch": 2}})


@pytest.mark.long
@pytest.mark.parametrize("twice", [0, 4])
def test_a_process_grows_by_what_was_planned(twice: int) -> None:
    root = Path(__file__).resolve().parents[2]
    # Large blocks go back to the system at once: what else the C library would keep of them differs
    # from run to run (0.57 to 0.94 of the growth was planned; with this, 0.98 to 1.00).
    environment = {
        **os.environ,
        "PYTHONPATH": f"{root / 'src'}:{root}",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    grown = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), str(twice)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    small, large = (
        step_bytes(large_config(), LARGE, torch.float32, size, 2, twice)
        for size in (VideoSize(1, LARGE_SIZE.height, LARGE_SIZE.width), LARGE_SIZE)
    )
    assert (large - small) / json.loads(grown.stdout) == pytest.approx(1.0, abs=0.1)
