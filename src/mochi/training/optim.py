"""Optimisers by name, with the groups of parameters that each of them wants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mochi.training.adamw8bit import AdamW8bit
from mochi.training.config import Optimiser
from mochi.training.muon import Muon

_OUTSIDE = ("x_embedder.", "final_layer.", "t5_yproj.", "pos_frequencies", "output_proj.")
"""Where a matrix meets what is no activation of the network: muon leaves these to Adam."""

_SLOW = {"pos_frequencies": 0.02}
"""Rotary frequencies are angles a position: the steps of a weight would scramble them."""


def make_optimiser(
    settings: Optimiser, parameters: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of a config; its groups know their rates, which the schedule multiplies."""
    groups = _groups(settings, parameters)
    betas = settings.beta1, settings.beta2
    if settings.name == "muon":
        return Muon(groups, lr=settings.lr, adam_lr=settings.adam_lr, betas=betas)
    if settings.name == "adamw8bit":
        return AdamW8bit(groups, lr=settings.lr, betas=betas)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas)


def _groups(settings: Optimiser, parameters: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Vectors do not decay; frequencies move slowly."""
    found: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        factor = next((f for key, f in _SLOW.items() if name.endswith(key)), 1.0)
        decays = parameter.ndim > 1 and factor == 1.0
        outside = any(part in name for part in _OUTSIDE) or parameter.ndim < 2
        found.setdefault((factor, decays, outside), []).append(parameter)
    return [_group(settings, params, *kind) for kind, params in found.items()]


def _group(
    settings: Optimiser, parameters: list[nn.Parameter], factor: float, decays: bool, outside: bool
) -> dict[str, Any]:
    group: dict[str, Any] = {
        "params": parameters,
        "base_lr": settings.lr * factor,
        "weight_decay": settings.weight_decay if decays else 0.0,
    }
    if settings.name == "muon":
        group |= {"base_adam_lr": settings.adam_lr * factor, "adam": outside}
    return group
