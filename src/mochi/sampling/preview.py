"""Small pictures of a latent without the decoder: its channels, mixed into colours.

The mix is a least-squares fit to videos and their latents, or to what a decoder makes of some
latents. The pictures are blurred and an eighth of the video's size, but show shapes, colours and
motion from the first steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mochi.core.errors import RequestError


@dataclass(frozen=True)
class LinearPreview:
    """Pictures of DiT-space latents: `colour = weight @ channels + bias`.

    Attributes:
        weight: `(3, C)`.
        bias: `(3,)`. Colours are in [-1, 1], as the decoder's.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, z: Tensor) -> np.ndarray:
        """The first video of a batch `(B, C, t, h, w)` as uint8 `(t, h, w, 3)`."""
        latent = z[0].detach().float().cpu()
        colours = torch.einsum("kc,cthw->thwk", self.weight, latent) + self.bias
        return ((colours + 1) * 127.5).round().clamp(0, 255).byte().numpy()

    @classmethod
    def fit(cls, z: Tensor, pixels: Tensor) -> LinearPreview:
        """The mix that comes closest to videos.

        Args:
            z: DiT-space latents `(B, C, t, h, w)`.
            pixels: their videos in [-1, 1], `(B, 3, 6(t - 1) + 1, 8h, 8w)`.

        Raises:
            RequestError: the videos are not of the latents' size.
        """
        expected = (z.shape[0], 3, 6 * (z.shape[2] - 1) + 1, 8 * z.shape[3], 8 * z.shape[4])
        if pixels.shape != expected:
            raise RequestError("pixels", tuple(pixels.shape), "is not the latents' video", expected)
        latent = z.detach().double().movedim(1, -1).flatten(0, -2)
        design = torch.cat([latent, torch.ones_like(latent[:, :1])], dim=1)
        colours = _shrink(pixels.detach().double()).movedim(1, -1).flatten(0, -2)
        solution = torch.linalg.lstsq(design.cpu(), colours.cpu(), driver="gelsd").solution.float()
        return cls(solution[:-1].T.contiguous(), solution[-1])


def _shrink(pixels: Tensor) -> Tensor:
    """Mean colour per latent pixel: the first frame alone, then six by six."""
    first = F.avg_pool3d(pixels[:, :, :1], (1, 8, 8))
    if pixels.shape[2] == 1:
        return first
    return torch.cat([first, F.avg_pool3d(pixels[:, :, 1:], (6, 8, 8))], dim=2)
