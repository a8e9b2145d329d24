"""Latents as small pictures, cheap enough for every step.

A linear map from 12 channels to RGB, fitted to the decoder itself: colours come out right, edges
at the latent's resolution. So it suits any decoder, and no constants have to be kept anywhere.
"""

# Shapes: S samples, C latent channels, B batch, T H W latent frames and pixels.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mochi.core.errors import SamplingError
from mochi.core.latents import DitLatent, LatentStats
from mochi.model.decoder import Decoder

_SAMPLES = 96
_SIDE = 4
"""Latent pixels in height and width of a sample: enough for the decoder's neighbourhoods."""


Picture = Callable[[Tensor], np.ndarray]


def fit_preview(decoder: Decoder, stats: LatentStats) -> Picture:
    """A function from clean DiT-space latents `(B, C, t, h, w)` to uint8 `(t, h, w, 3)` of row 0.

    It is the least-squares fit to what the decoder makes of latents of one frame that are the
    same everywhere, in DiT space standard normal.
    """
    colours_SC = _samples(decoder.config.latent_channels)
    z_SC1HW = colours_SC[:, :, None, None, None].expand(-1, -1, 1, _SIDE, _SIDE)
    device = next(decoder.parameters()).device
    with torch.no_grad():
        pixels = decoder(stats.denormalize(DitLatent(z_SC1HW)).tensor.to(device))
    seen_S3 = pixels.float().mean(dim=(2, 3, 4)).clamp(-1, 1).cpu()
    weights = torch.linalg.lstsq(_with_one(colours_SC), seen_S3).solution

    def picture(z_BCTHW: Tensor) -> np.ndarray:
        rgb = _with_one(z_BCTHW[0].detach().float().cpu().permute(1, 2, 3, 0)) @ weights
        return to_uint8(rgb).numpy()

    return picture


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] to uint8: `(x + 1) / 2`, clamped to [0, 1], rounded to 255 (SPEC 4)."""
    return ((pixels.float() + 1) / 2).clamp(0, 1).mul(255).round().to(torch.uint8)


def checked_uint8(pixels: Tensor) -> Tensor:
    """As `to_uint8`, for what a decoder made.

    Raises:
        SamplingError: a pixel is NaN or infinite.
    """
    if not torch.isfinite(pixels).all():
        raise SamplingError("the decoder made NaN or infinite pixels; try --dtype float32")
    return to_uint8(pixels)


def _samples(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_SAMPLES, channels, generator=generator)


def _with_one(x: Tensor) -> Tensor:
    """A constant feature behind the others, for the offset."""
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
