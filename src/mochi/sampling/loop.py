"""The sampling loop: from a noisy latent to a clean one, one velocity after the other.

Parts come from outside: any network that predicts a velocity, any falling schedule, a solver by
name, a function that wraps the velocity. What comes in may be partly clean and what goes out
partly noisy, so a run can start from a video, stop in the middle and go on later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from mochi.core.errors import RequestError, SamplingError
from mochi.core.events import CancelToken
from mochi.core.request import check_guidance
from mochi.sampling.guidance import Network, PreparesText, Prompt, Velocity, Wrap, steered
from mochi.sampling.progress import OnStep, Picture, Progress
from mochi.sampling.schedule import check_sigmas
from mochi.sampling.solvers import Past, Solver, get_solver


def sample(
    dit: Network | PreparesText,
    noise: Tensor,
    text: Tensor,
    mask: Tensor,
    negative_text: Tensor | None,
    negative_mask: Tensor | None,
    sigmas: Iterable[float],
    guidance: float | Sequence[float],
    *,
    solver: str = "euler",
    on_step: OnStep | None = None,
    cancel: CancelToken | None = None,
    preview: Picture | None = None,
    wrap: Wrap | None = None,
    enable_grad: bool = False,
) -> Tensor:
    """Solve the sampling ODE with classifier-free guidance (SPEC 3).

    Args:
        dit: `dit(z, sigma, text, mask)` -> velocity; text is prepared once where `dit` has
            `prepare_text`, and steps where it has `prepare_steps`.
        noise: DiT-space latent `(B, C, t, h, w)` at noise level `sigmas[0]`; pure noise for 1.
        text: features `(B, L, D)`, or `(1, L, D)` for one prompt in all rows.
        mask: valid tokens, bool `(B, L)` or `(1, L)`.
        negative_text: features of the negative prompt, likewise; None for an empty one.
        negative_mask: its valid tokens; None for an empty negative prompt.
        sigmas: falling noise levels, one more than there are steps; the result is at the last one.
        guidance: one scale, or one per step; a step with scale 1 costs one network pass, not two.
        solver: a name in `SOLVERS`; a multistep one begins with one Euler step in each call.
        on_step: called after each step.
        cancel: looked at before each network pass, and between the blocks of our own network.
        preview: turns the clean latent as estimated now into pictures, when a listener asks.
        wrap: takes the guided velocity and gives the one to use: caching, tracing, changes of step.
        enable_grad: keep the graph, to differentiate through the run.

    Returns:
        DiT-space latent in float32 (float64 if the noise is float64) on the noise's device.

    Raises:
        RequestError: shapes, schedule, guidance or solver break a rule.
        SamplingError: a velocity was NaN, infinite or of a wrong shape; names the step.
        Cancelled: `cancel` was set.
    """
    levels = check_sigmas(sigmas)
    scales = _scales(guidance, steps=len(levels) - 1)
    solve = get_solver(solver)
    z = _latent(noise)
    cancel = cancel or CancelToken()
    with torch.set_grad_enabled(enable_grad):
        positive = _prompt(z, "text", text, mask)
        negative = None
        if any(scale != 1.0 for scale in scales):
            if negative_text is None or negative_mask is None:
                negative_text, negative_mask = torch.zeros_like(text), torch.zeros_like(mask)
            negative = _prompt(z, "negative_text", negative_text, negative_mask)
        cancel.check()
        velocity = steered(dit, positive, negative, levels[:-1], scales, cancel)
        progress = Progress(len(scales), on_step, preview)
        return integrate(wrap(velocity) if wrap else velocity, z, levels, solve, progress)


def integrate(
    velocity: Velocity, z: Tensor, sigmas: Sequence[float], solve: Solver, progress: Progress
) -> Tensor:
    """The loop itself: `z` at `sigmas[0]` to the latent at `sigmas[-1]`.

    Raises:
        SamplingError: a velocity was NaN or infinite, or of another shape than z.
    """
    past: Past | None = None
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        v = velocity(z, sigma, step)
        _check_velocity(v, z, f"step {step + 1} of {len(sigmas) - 1} (sigma {sigma:.4g})")
        z_next, past = solve(z, v, sigma, sigma_next, past)
        progress.step_done(step, z, v, sigma, sigma_next)
        z = z_next
    return z


def _check_velocity(v: Tensor, z: Tensor, where: str) -> None:
    if v.shape != z.shape:
        shapes = f"a velocity of shape {tuple(v.shape)} for a latent of shape {tuple(z.shape)}"
        raise SamplingError(f"{where}: the network returned {shapes}")
    finite = torch.isfinite(v)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise SamplingError(
            f"{where}: the velocity is NaN or infinite in {bad:,} of {v.numel():,} values; "
            "the weights, the text features or the precision are at fault"
        )


def _scales(guidance: float | Sequence[float], steps: int) -> list[float]:
    """One guidance scale per step; tensors and arrays are lists too."""
    plain = guidance.tolist() if hasattr(guidance, "tolist") else guidance
    checked = check_guidance(plain, steps)
    return list(checked) if isinstance(checked, tuple) else [checked] * steps


def _latent(noise: Tensor) -> Tensor:
    """The start of a run, at least float32: in bf16 more than half of the first 32 updates of the
    published schedule, 0.00078 of sigma each, would round to nothing."""
    if noise.ndim != 5:
        raise RequestError(
            "noise", tuple(noise.shape), "is not of shape (batch, channels, t, h, w)"
        )
    if not bool(torch.isfinite(noise).all()):
        raise RequestError("noise", tuple(noise.shape), "holds NaN or infinity")
    return noise.to(torch.promote_types(noise.dtype, torch.float32))


def _prompt(z: Tensor, field: str, text: Tensor, mask: Tensor) -> Prompt:
    """A prompt for each row of `z`, or one for all."""
    batch = z.shape[0]
    if text.ndim != 3 or text.shape[0] not in (1, batch):
        rule = "is not of shape (batch, tokens, features)"
        raise RequestError(field, tuple(text.shape), rule, f"({batch}, L, D) or (1, L, D)")
    if mask.shape != text.shape[:2]:
        rule = "mask does not fit the features"
        raise RequestError(field, tuple(mask.shape), rule, tuple(text.shape[:2]))
    text = text.to(z.device).expand(batch, -1, -1)
    return Prompt(text, mask.to(z.device, torch.bool).expand(batch, -1))
