"""An exponential moving average of weights: what is shipped is the average, not the last step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of a module's parameters, warmed up so that early steps are forgotten quickly.

    The decay of step n is `min(decay, (1 + n) / (10 + n))`.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.steps = 0
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step towards the module's present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in module.named_parameters():
            self.weights[name].lerp_(parameter.detach(), 1 - decay)

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.steps = state["steps"]  # type: ignore[assignment]
        self.weights = state["weights"]  # type: ignore[assignment]
