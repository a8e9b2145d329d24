"""Where a run starts: noise from a seed, or a clean latent mixed with noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mochi.core.errors import RequestError
from mochi.core.request import MAX_SEED
from mochi.core.sizes import whole


def draw_noise(shape: Sequence[int], seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise, float32, the same for a seed whatever the device.

    It is drawn on the CPU and then moved, from generators of its own: the caller's random state
    stays as it is. Row b of a batch is drawn from `seed + b`, so it equals the only row of a run
    of its own.

    Args:
        shape: `(B, C, t, h, w)`.
        seed: 0 to 2^63 - 1.
        device: where the result lies.

    Raises:
        RequestError: a seed out of range.
    """
    batch, *rest = shape
    seed = whole("seed", seed, minimum=0)
    if seed + batch - 1 > MAX_SEED:
        raise RequestError("seed", seed, f"is too large for {batch} rows", MAX_SEED - batch + 1)
    rows = [
        torch.randn(rest, generator=torch.Generator().manual_seed(seed + row), dtype=torch.float32)
        for row in range(batch)
    ]
    return torch.stack(rows).to(device)


def mix(clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """A noisy latent of rectified flow: `(1 - sigma) * clean + sigma * noise`.

    Both in DiT space and of one shape (SPEC 6). With `starting_at` this begins a run from
    a given video.

    Raises:
        RequestError: different shapes, or sigma outside [0, 1].
    """
    if clean.shape != noise.shape:
        raise RequestError("noise", tuple(noise.shape), "has another shape", tuple(clean.shape))
    if not 0.0 <= sigma <= 1.0:
        raise RequestError("sigma", sigma, "must lie between 0 and 1", min(max(sigma, 0.0), 1.0))
    return (1.0 - sigma) * clean + sigma * noise
