"""Whole sampling runs against the published implementation, called as a stranger calls them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mochi
from mochi.core.config import DiTConfig
from mochi.model.dit import AsymmDiT

CONFIG = DiTConfig(depth=3, heads=3, visual_width=192, text_width=96, text_features=64, head_dim=64)


@pytest.fixture(scope="module")
def fill(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill", shared / "goldens" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dit(shared: Path, fill: ModuleType) -> AsymmDiT:
    model = AsymmDiT(CONFIG)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    listed = json.loads((shared / "goldens" / "shapes.json").read_text())
    assert any({k: tuple(v) for k, v in part.items()} == shapes for part in listed.values())
    model.load_state_dict({name: fill.weight(name, shape) for name, shape in shapes.items()})
    return model


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("steps", "schedule", "guidance"),
    [(8, (8, 0.1, 6), 1.5), (10, (10, 0.025), [5.0] * 5 + [3.0] * 5)],
)
def test_a_whole_run(
    shared: Path,
    fill: ModuleType,
    dit: AsymmDiT,
    steps: int,
    schedule: tuple,
    guidance: float | list[float],
    batch: int,
) -> None:
    golden = load_file(shared / "goldens" / "reference.safetensors")[
        f"sample/steps{steps}/vae_latents"
    ]
    noise = fill.tensor("noise", 1, 12, 3, 8, 12)
    text, null = fill.tensor("yfeat", 1, 256, 64), fill.tensor("nullfeat", 1, 256, 64)
    mask, none = torch.arange(256)[None] < 17, torch.zeros(1, 256, dtype=torch.bool)
    sigmas = mochi.linear_quadratic(*schedule)
    if batch == 2:  # the other row is of another noise and length, and must not be heard
        noise = torch.cat([noise, noise.flip(-1)])
        text = torch.cat([text, text.flip(1)])
        mask = torch.cat([mask, torch.arange(256)[None] < 5])
        null, none = null.repeat(2, 1, 1), none.repeat(2, 1)
    z = mochi.sample(dit, noise, text, mask, null, none, sigmas, guidance)
    assert z.dtype == torch.float32
    assert relative(mochi.to_vae_latents(z)[:1], golden) < 1e-5  # asked for: 1e-4
