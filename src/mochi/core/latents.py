"""Two latent spaces, two types.

The VAE speaks `VaeLatent`; the transformer is trained on `DitLatent`, which is normalised per
channel: `vae = dit * std + mean` (SPEC 3). Mixing them up gives washed-out videos and a trainer
that learns the wrong thing, so the type says which one a tensor is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VaeLatent:
    """A latent as the VAE makes and reads it, `(B, C, t, h, w)`."""

    tensor: Tensor


@dataclass(frozen=True)
class DitLatent:
    """A normalised latent, the space in which the transformer samples, `(B, C, t, h, w)`."""

    tensor: Tensor


@dataclass(frozen=True)
class LatentStats:
    """Mean and standard deviation of VAE latents, one of each per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, latent: VaeLatent) -> DitLatent:
        """`(vae - mean) / std`, in the tensor's dtype."""
        mean, std = self._broadcast(latent.tensor)
        return DitLatent((latent.tensor - mean) / std)

    def denormalize(self, latent: DitLatent) -> VaeLatent:
        """`dit * std + mean`, in the tensor's dtype."""
        mean, std = self._broadcast(latent.tensor)
        return VaeLatent(latent.tensor * std + mean)

    def _broadcast(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        mean = torch.tensor(self.mean, dtype=like.dtype, device=like.device).view(shape)
        std = torch.tensor(self.std, dtype=like.dtype, device=like.device).view(shape)
        return mean, std


MOCHI_STATS = LatentStats(
    mean=(
        -0.06730895953510081,
        -0.038011381506090416,
        -0.07477820912866141,
        -0.05565264470995561,
        0.012767231469026969,
        -0.04703542746246419,
        0.043896967884726704,
        -0.09346305707025976,
        -0.09918314763016893,
        -0.008729793427399178,
        -0.011931556316503654,
        -0.0321993391887285,
    ),
    std=(
        0.9263795028493863,
        0.9248894543193766,
        0.9393059390890617,
        0.959253732819592,
        0.8244560132752793,
        0.917259975397747,
        0.9294154431013696,
        1.3720942357788521,
        0.881393668867029,
        0.9168315692124348,
        0.9185249279345552,
        0.9274757570805041,
    ),
)
"""The published statistics (SPEC 3)."""


def to_vae_latents(z: Tensor) -> Tensor:
    """DiT-space latents `(B, 12, t, h, w)` to what the decoder reads: `z * std + mean`."""
    return MOCHI_STATS.denormalize(DitLatent(z)).tensor
