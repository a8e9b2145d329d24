"""A new adapter on a transformer, ready to learn, and what it has become as a file."""

# Shapes: R rank, I inputs of a layer, O outputs.

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn

from mochi.core.errors import RequestError
from mochi.model.adapters import Adapters, Factors, LowRank, linear_layers
from mochi.model.dit import AsymmDiT
from mochi.training.config import LAYERS, Lora
from mochi.weights.lora import Lora as LoraFile

NAME = "training"

_PATTERNS: Mapping[str, tuple[str, ...]] = {
    "attention": ("blocks.*.attn.*",),
    "mlp": ("blocks.*.mlp_?.*",),
    "modulation": ("blocks.*.mod_?",),
    "conditioning": ("t_embedder.*", "t5_y_embedder.*", "t5_yproj"),
    "all": ("*",),
}


class NewAdapter:
    """The matrices of an adapter that learns; A is random and B zero, so that it changes nothing.

    Args:
        dit: the transformer that wears it from now on.
        settings: rank, alpha, dropout and layers.
        seed: of the random numbers.

    Raises:
        RequestError: no layer has such a name, or the rank is more than a layer has.
    """

    def __init__(self, dit: AsymmDiT, settings: Lora, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self._adapters = Adapters(dit)
        factors = {
            name: [_factors(name, layer, settings, generator)]
            for name, layer in chosen_layers(dit, settings.layers).items()
        }
        self._adapters.add(NAME, factors, dropout=settings.dropout, dtype=torch.float32)
        self.parameters: dict[str, nn.Parameter] = {}
        for layer, deltas in self._live.items():
            for number, delta in enumerate(deltas):
                delta.requires_grad_(True).train()
                for name, parameter in delta.named_parameters():
                    self.parameters[f"{layer}.{number}.{name}"] = parameter

    def file(self, metadata: Mapping[str, str] | None = None) -> LoraFile:
        """The adapter as it is now; its matrices are copies on the CPU."""
        layers = {
            layer: [_copy(delta.factors()) for delta in deltas]
            for layer, deltas in self._live.items()
        }
        return LoraFile.of_factors(layers, metadata)

    @property
    def _live(self) -> Mapping[str, list[LowRank]]:
        return self._adapters.live(NAME)


def chosen_layers(dit: AsymmDiT, words: tuple[str, ...]) -> dict[str, nn.Module]:
    """The linear layers that some words or patterns name, in the network's order.

    Raises:
        RequestError: one names none.
    """
    every = dict(linear_layers(dit))
    wanted: set[str] = set()
    for word in words:
        patterns = _PATTERNS.get(word, (word,))
        found = {n for n in every if any(fnmatchcase(n, pattern) for pattern in patterns)}
        if not found:
            rule = "names no linear layer of this model"
            raise RequestError("lora.layers", word, rule, ", ".join(LAYERS))
        wanted |= found
    return {name: layer for name, layer in every.items() if name in wanted}


def _factors(name: str, layer: nn.Module, settings: Lora, generator: torch.Generator) -> Factors:
    inputs, outputs = int(layer.in_features), int(layer.out_features)  # type: ignore[arg-type]
    if settings.rank > min(inputs, outputs):
        rule = f"is more than {name} ({inputs} -> {outputs}) can have"
        raise RequestError("lora.rank", settings.rank, rule, min(inputs, outputs))
    bound = 1 / math.sqrt(inputs)  # what peft begins with: Kaiming's rule for a = sqrt(5)
    a_RI = (torch.rand(settings.rank, inputs, generator=generator) * 2 - 1) * bound
    return Factors(a_RI, torch.zeros(outputs, settings.rank), settings.alpha / settings.rank)


def _copy(factors: Factors) -> Factors:
    return Factors(
        factors.a.cpu().clone(), factors.b.cpu().clone(), factors.scale, factors.part, factors.parts
    )
