"""Rotary positions with learned frequencies, mixed over time, rows and columns (SPEC 2)."""

# Shapes: B batch, N visual tokens, H heads, K head_dim, F = K / 2 frequencies, 3 = (t, h, w).

from __future__ import annotations

import math

import torch
from torch import Tensor

POSITION_AREA = 36_864
"""Rows and columns are scaled so that every aspect ratio covers this area (192 x 192)."""


def positions(frames: int, rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Position `(t, h, w)` of each token, float32 `(N, 3)`, tokens in (t, h, w) order.

    t is the frame's index; h and w are the centres of equal bins that cover
    `[-rows*s/2, rows*s/2]` and `[-columns*s/2, columns*s/2]` with `s = sqrt(36864/(rows*columns))`.
    """
    scale = math.sqrt(POSITION_AREA / (rows * columns))
    t = torch.arange(frames, dtype=torch.float32, device=device)
    h = _centres(rows, scale, device)
    w = _centres(columns, scale, device)
    return torch.stack(torch.meshgrid(t, h, w, indexing="ij"), dim=-1).flatten(0, 2)


def _centres(bins: int, scale: float, device: torch.device | None) -> Tensor:
    index = torch.arange(bins, dtype=torch.float64)
    return ((index + 0.5 - bins / 2) * scale).to(device=device, dtype=torch.float32)


def rotary_factors(frequencies_3HF: Tensor, positions_N3: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each token's angles, float32 `(1, N, H, F)` each."""
    angle_NHF = torch.einsum("nd,dhf->nhf", positions_N3, frequencies_3HF.float())
    return angle_NHF.cos().unsqueeze(0), angle_NHF.sin().unsqueeze(0)


def rotate(x_BNHK: Tensor, cos_1NHF: Tensor, sin_1NHF: Tensor) -> Tensor:
    """Rotate each pair of elements (2i, 2i+1): `(a cos - b sin, a sin + b cos)`, float32."""
    a_BNHF, b_BNHF = x_BNHK.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack(
        [a_BNHF * cos_1NHF - b_BNHF * sin_1NHF, a_BNHF * sin_1NHF + b_BNHF * cos_1NHF], dim=-1
    ).flatten(-2)
