"""An exponential moving average of weights: what is shipped is the average, not the last step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of parameters, warmed up so that early steps are forgotten quickly.

    The decay of step n is `min(decay, (1 + n) / (10 + n))`.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self.decay = decay
        self.steps = 0
        self.weights = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take one step towards the present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in parameters.items():
            self.weights[name].lerp_(parameter.detach(), 1 - decay)

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        return {"steps": self.steps, "weights": self.weights}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, object]) -> None:
        self.steps = state["steps"]  # type: ignore[assignment]
        for name, weight in state["weights"].items():  # type: ignore[attr-defined]
            self.weights[name].copy_(weight)


@contextmanager
def averaged(
    parameters: Mapping[str, nn.Parameter], average: WeightAverage | None
) -> Iterator[None]:
    """Inside, the parameters hold the average; afterwards what they held before, bit for bit."""
    if average is None:
        yield
        return
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        _put(parameters, average.weights)
        yield
    finally:
        _put(parameters, kept)


@torch.no_grad()
def _put(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
