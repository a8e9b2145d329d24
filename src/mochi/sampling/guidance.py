"""Velocities, and what wraps them.

A velocity takes a latent, its noise level and the number of the step (from 0), and returns
`z0 - eps` in the latent's shape. Guidance, caching, tracing and cancellation take a velocity and
give a velocity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mochi.core.events import CancelToken

Velocity = Callable[[Tensor, float, int], Tensor]
"""`v = velocity(z, sigma, step)`."""

Wrap = Callable[[Velocity], Velocity]

Network = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`v = dit(z (B,C,t,h,w), sigma (B,), text (B,L,D), mask (B,L))`."""


@runtime_checkable
class PreparesText(Protocol):
    """A network that can do its work on the text once per prompt instead of once per step."""

    def prepare_text(self, text: Tensor, mask: Tensor) -> Any: ...

    def velocity(self, z: Tensor, sigma: Tensor, context: Any) -> Tensor: ...


@runtime_checkable
class PreparesSteps(PreparesText, Protocol):
    """A network that can also do ahead what depends on the steps alone, and run several prompts
    of one latent together."""

    def prepare_steps(self, sigmas: Sequence[float], contexts: Sequence[Any]) -> Any: ...

    def velocities(
        self,
        z: Tensor,
        sigma: float,
        contexts: Sequence[Any],
        tables: Any,
        before_block: Callable[[], object] | None,
    ) -> list[Tensor]: ...


@dataclass(frozen=True)
class Prompt:
    """Text features and their mask, a row for each row of the latent."""

    text: Tensor
    mask: Tensor


def steered(
    dit: Network | PreparesText | PreparesSteps,
    positive: Prompt,
    negative: Prompt | None,
    sigmas: Sequence[float],
    scales: Sequence[float],
    cancel: CancelToken,
) -> Velocity:
    """The guided velocity of `dit`: what can be done once is done here, once.

    Args:
        dit: any network; one that prepares steps runs both passes of a step together.
        positive: what to show.
        negative: what not to show; None where every scale is 1.
        sigmas: the noise level of each step.
        scales: the guidance of each step.
        cancel: looked at before each pass, or in a network that prepares steps before each block.
    """
    if isinstance(dit, PreparesSteps):
        return _prepared(dit, positive, negative, sigmas, scales, cancel)
    velocities = [
        cancellable(conditioned(dit, prompt.text, prompt.mask), cancel)
        for prompt in (positive, negative)
        if prompt is not None
    ]
    return guided(velocities[0], velocities[-1], scales)


def _prepared(
    dit: PreparesSteps,
    positive: Prompt,
    negative: Prompt | None,
    sigmas: Sequence[float],
    scales: Sequence[float],
    cancel: CancelToken,
) -> Velocity:
    prompts = [positive] if negative is None else [negative, positive]
    contexts = [dit.prepare_text(prompt.text, prompt.mask) for prompt in prompts]
    cancel.check()
    tables = dit.prepare_steps(sigmas, contexts)

    def velocity(z: Tensor, sigma: float, step: int) -> Tensor:
        cancel.check()
        scale = scales[step]
        wanted = contexts
        if scale in (0.0, 1.0):
            wanted = contexts[:1] if scale == 0.0 else contexts[-1:]
        # Guidance and solver in the state's precision.
        found = [v.to(z.dtype) for v in dit.velocities(z, sigma, wanted, tables, cancel.check)]
        return found[0] if len(found) == 1 else found[0] + scale * (found[1] - found[0])

    return velocity


def conditioned(dit: Network | PreparesText, text: Tensor, mask: Tensor) -> Velocity:
    """The velocity of `dit` under some prompts; it prepares them here, once, if it can."""
    if isinstance(dit, PreparesText):
        context = dit.prepare_text(text, mask)
        return _velocity(lambda z, sigma: dit.velocity(z, sigma, context))
    return _velocity(lambda z, sigma: dit(z, sigma, text, mask))


def _velocity(network: Callable[[Tensor, Tensor], Tensor]) -> Velocity:
    def velocity(z: Tensor, sigma: float, step: int) -> Tensor:
        sigma_B = torch.full((z.shape[0],), sigma, dtype=z.dtype, device=z.device)
        return network(z, sigma_B).to(z.dtype)  # guidance and solver in the state's precision

    return velocity


def guided(positive: Velocity, negative: Velocity, scales: Sequence[float]) -> Velocity:
    """Classifier-free guidance with a scale per step: `v_neg + g * (v_pos - v_neg)` (SPEC 3).

    A scale of exactly 1 is the positive pass alone and exactly 0 the negative alone: one pass
    instead of two.
    """

    def velocity(z: Tensor, sigma: float, step: int) -> Tensor:
        scale = scales[step]
        if scale == 1.0:
            return positive(z, sigma, step)
        v_negative = negative(z, sigma, step)
        if scale == 0.0:
            return v_negative
        return v_negative + scale * (positive(z, sigma, step) - v_negative)

    return velocity


def cancellable(velocity: Velocity, cancel: CancelToken) -> Velocity:
    """`velocity` that raises `Cancelled` in place of a pass once `cancel` is set."""

    def checked(z: Tensor, sigma: float, step: int) -> Tensor:
        cancel.check()
        return velocity(z, sigma, step)

    return checked
