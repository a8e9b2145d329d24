"""Adapters small enough to write in every test."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mochi.core.config import DiTConfig
from mochi.model.dit import AsymmDiT
from mochi.weights.lora_read import LayerSizes, layer_sizes

DIT = DiTConfig(
    depth=3, heads=2, head_dim=16, visual_width=32, text_width=24, text_features=40, text_tokens=256
)
State = dict[str, Tensor]


def sizes_of(config: DiTConfig) -> LayerSizes:
    with torch.device("meta"):
        return layer_sizes(AsymmDiT(config))


def is_attention(layer: str) -> bool:
    return ".attn." in layer


def pairs_for(
    sizes: LayerSizes, rank: int = 4, which: Callable[[str], bool] = is_attention, seed: int = 0
) -> State:
    """Random matrices with the original's names."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for layer, (inputs, outputs) in sizes.items():
        if which(layer):
            state[f"{layer}.lora_A"] = torch.randn(rank, inputs, generator=rng) / inputs**0.5
            state[f"{layer}.lora_B"] = torch.randn(outputs, rank, generator=rng) / 2
    return state


def kwargs(rank: int = 4, alpha: float = 4) -> dict[str, str]:
    """What the original writes beside them."""
    settings: dict[str, Any] = {}
    for family in ("qkv_proj", "out_proj"):
        settings |= {f"{family}_lora_rank": rank, f"{family}_lora_alpha": alpha}
        settings[f"{family}_lora_dropout"] = 0.0
    return {"kwargs": json.dumps(settings)}


@pytest.fixture(scope="session")
def sizes() -> LayerSizes:
    """The layers of a small network."""
    return sizes_of(DIT)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Save tensors as a file."""

    def save(
        state: Mapping[str, Tensor],
        metadata: dict[str, str] | None = None,
        name: str = "a.safetensors",
    ) -> Path:
        contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(contiguous, tmp_path / name, metadata=metadata)
        return tmp_path / name

    return save
