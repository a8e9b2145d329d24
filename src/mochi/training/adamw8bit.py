"""AdamW that keeps its two means in 8 bits a number (after Dettmers et al., 2022).

Both are kept in blocks of 256 numbers with a float32 scale each. The mean of gradients is stored as
the signed square root of its share of the block's largest, the mean of squares as the fourth root:
so small numbers beside large ones keep their digits, down to 2e-10 of the largest. What lies
between two codes goes up or down at random, so that a mean that moves by less than a code in a
step still moves; the random numbers come from the step's number, so a training resumes exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BLOCK = 256
_MEAN_CODES, _SQUARE_CODES = 127, 255


class AdamW8bit(torch.optim.Optimizer):
    """AdamW with decoupled weight decay; arguments as `torch.optim.AdamW`."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                place += 1
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group, place)

    def load_state_dict(self, state_dict: Any) -> None:
        """As it was saved; torch's own turns the codes into the parameter's dtype."""
        super().load_state_dict(state_dict)
        saved = state_dict["state"]
        flat = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, state in saved.items():
            mine = self.state[flat[index]]
            for name, value in state.items():
                if isinstance(value, Tensor):
                    mine[name] = value.clone().to(flat[index].device)

    def _update(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], place: int
    ) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name, dtype in (("mean", torch.int8), ("square", torch.uint8)):
                blocks = -(-parameter.numel() // BLOCK)
                state[name] = torch.zeros(blocks, BLOCK, dtype=dtype, device=parameter.device)
                state[f"{name}_scale"] = torch.zeros(blocks, 1, device=parameter.device)
        state["step"] += 1
        step, (first, second) = state["step"], group["betas"]
        generator = torch.Generator(parameter.device).manual_seed(step * 1_000_003 + place)
        mean = decode(state["mean"], state["mean_scale"], parameter.shape)
        square = decode(state["square"], state["square_scale"], parameter.shape)
        mean.lerp_(gradient, 1 - first)
        square.lerp_(gradient.square(), 1 - second)
        state["mean"], state["mean_scale"] = encode(mean, torch.int8, generator)
        state["square"], state["square_scale"] = encode(square, torch.uint8, generator)
        root = (square / (1 - second**step)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - first**step))


def encode(
    numbers: Tensor, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Codes `(blocks, 256)` and scales `(blocks, 1)`; int8 for signed numbers, uint8 for others."""
    flat = numbers.reshape(-1)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    share = (blocks.abs() / scale.clamp(min=torch.finfo(torch.float32).tiny)).sqrt_()
    if dtype == torch.uint8:
        share, codes = share.sqrt_(), _SQUARE_CODES
    else:
        codes = _MEAN_CODES
    noise = torch.rand(share.shape, generator=generator, device=share.device)
    whole = (share * codes + noise).floor_().clamp_(max=codes)
    signed = whole if dtype == torch.uint8 else whole.copysign_(blocks)
    return signed.to(dtype), scale


def decode(codes: Tensor, scale: Tensor, shape: torch.Size) -> Tensor:
    """The numbers of `encode`, float32."""
    values = codes.float()
    if codes.dtype == torch.uint8:
        share = (values / _SQUARE_CODES).square_().square_()
    else:
        share = (values / _MEAN_CODES).abs_().square_().copysign_(values)
    return (share * scale).view(-1)[: shape.numel()].view(shape)
