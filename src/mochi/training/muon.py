"""Muon: momentum whose update matrices are made orthogonal (Jordan et al., 2024).

Adam's steps are the same size for every weight, whatever the layer's width; with the few thousand
steps that nano gets, wide convolutions then jump while narrow layers crawl. An orthogonal update
moves each layer by the same share of its own scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Odd quintic whose iteration drives singular values in (0, 1] to about 1; from Jordan's note.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Muon for matrices and kernels, Adam for vectors.

    Args:
        params: all parameters; those of two dimensions or more, kernels flattened to
            `(out, the rest)`, take orthogonal updates.
        lr: step of an orthogonal update, relative to the unit scale `1 / sqrt(fan_in)`.
        adam_lr: step of the others, and of any group with `adam=True`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        adam_lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "adam_lr": adam_lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "adam": False,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if group["weight_decay"] and parameter.ndim > 1:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if parameter.ndim > 1 and not group["adam"]:
                    self._orthogonal_step(parameter, gradient, group)
                else:
                    self._adam_step(parameter, gradient, group)

    def _orthogonal_step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"]).flatten(1)
        rows, columns = update.shape
        # Root-mean-square of an orthogonal matrix is 1 / sqrt(longer side); scaled so that it is
        # that of unit-gain weights, 1 / sqrt(columns).
        scale = group["lr"] * max(1.0, rows / columns) ** 0.5
        parameter.add_(orthogonalize(update).view_as(parameter), alpha=-scale)

    def _adam_step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        mean = state["mean"] / (1 - first ** state["step"])
        root = (state["square"] / (1 - second ** state["step"])).sqrt_().add_(1e-8)
        parameter.addcdiv_(mean, root, value=-group["adam_lr"])


def orthogonalize(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrix with singular values of about 1 (0.7 to 1.2), by Newton-Schulz.

    bfloat16 inside: the iteration is attracted to its fixed points, so rounding heals.
    """
    rows, columns = matrix.shape
    x = matrix.T if rows > columns else matrix
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(iterations):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.T if rows > columns else x).to(matrix.dtype)
