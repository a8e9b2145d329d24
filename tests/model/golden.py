"""Weights and inputs of the published goldens, made again from their names."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig

DIT = DiTConfig(depth=3, heads=3, head_dim=64, visual_width=192, text_width=96, text_features=64)
DECODER = DecoderConfig(channels=(192, 128, 64, 32), blocks=(1, 2, 2, 1, 1))
ENCODER = EncoderConfig(channels=(32, 64, 128, 192), blocks=(1, 1, 2, 2, 1))

Change = Callable[[str, Tensor], Tensor]


class Goldens:
    """The folder of goldens: `reference[key]`, `tensor(name, *shape)`, filled networks."""

    def __init__(self, folder: Path):
        spec = importlib.util.spec_from_file_location("golden_fill", folder / "fill.py")
        assert spec is not None
        assert spec.loader is not None
        fill = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fill)
        self.tensor: Callable[..., Tensor] = fill.tensor
        self._weight = fill.weight
        self.reference = load_file(folder / "reference.safetensors")
        self._shapes = json.loads((folder / "shapes.json").read_text())

    def weights(self, file: str, change: Change = lambda name, w: w) -> dict[str, Tensor]:
        """All tensors of one of the three checkpoints."""
        shapes = self._shapes[file]
        return {name: change(name, self._weight(name, tuple(s))) for name, s in shapes.items()}

    def filled(
        self, network: nn.Module, file: str, change: Change = lambda name, w: w
    ) -> nn.Module:
        """A network with the weights of `file`, strictly."""
        network.load_state_dict(self.weights(file, change))
        return network.eval()


def shrunk(name: str, weight: Tensor) -> Tensor:
    """The `dit_small` weights: everything but norms, modulation and positions times 0.05."""
    kept = "norm" in name or "mod" in name or name == "pos_frequencies"
    return weight if kept else weight * 0.05


def relative(value: Tensor, reference: Tensor) -> float:
    """`|a - b| / |b|`, in float64."""
    difference = (value.double() - reference.double()).norm() / reference.double().norm()
    return float(difference)


def prompt_mask(valid: int, tokens: int = 256) -> Tensor:
    """A mask `(1, tokens)` whose first `valid` tokens are valid."""
    return torch.arange(tokens).unsqueeze(0) < valid
