"""What steers the blocks: the noise level and the pooled prompt (SPEC 2, Embeddings)."""

# Shapes: B batch, L text tokens, E text features, S = 1 + L, H heads, K head_dim, D visual width.

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.config import POOLING_HEADS
from mochi.model.layers import Linear

TIME_SCALE = 1000.0
MAX_PERIOD = 10_000.0


class TimestepEmbedder(nn.Module):
    """Noise level to a vector: sinusoids of `1000 * (1 - sigma)`, then a two-layer MLP."""

    def __init__(self, width: int, features: int = 256):
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(Linear(features, width), nn.SiLU(), Linear(width, width))

    def forward(self, sigma_B: Tensor) -> Tensor:
        """Sigma in [0, 1], `(B,)`, to `(B, D)`."""
        return self.mlp(self.sinusoid(sigma_B))

    def sinusoid(self, sigma_B: Tensor) -> Tensor:
        """Cosines first, then sines, float32 `(B, features)`."""
        half = self.features // 2
        exponent = torch.arange(half, dtype=torch.float32, device=sigma_B.device) / half
        frequencies = torch.exp(-math.log(MAX_PERIOD) * exponent)
        angle = TIME_SCALE * (1 - sigma_B.float()).unsqueeze(1) * frequencies
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class AttentionPool(nn.Module):
    """The prompt as one vector: its mean looks at itself and at every valid token."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.to_kv = Linear(features, 2 * features)
        self.to_q = Linear(features, features)
        self.to_out = Linear(features, width)

    def forward(self, text_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """Features and the mask of valid tokens to `(B, D)`; no valid token gives a constant."""
        valid_BL1 = mask_BL.unsqueeze(-1).to(text_BLE.dtype)
        count_B1 = valid_BL1.sum(dim=1).clamp(min=1)
        mean_B1E = ((text_BLE * valid_BL1).sum(dim=1) / count_B1).unsqueeze(1)
        k_BSE, v_BSE = self.to_kv(torch.cat([mean_B1E, text_BLE], dim=1)).chunk(2, dim=-1)
        visible_BS = F.pad(mask_BL.bool(), (1, 0), value=True)
        pooled_BH1K = F.scaled_dot_product_attention(
            _heads(self.to_q(mean_B1E)),
            _heads(k_BSE),
            _heads(v_BSE),
            attn_mask=visible_BS[:, None, None, :],
        )
        return self.to_out(pooled_BH1K.flatten(1))


def _heads(x_BSE: Tensor) -> Tensor:
    return x_BSE.unflatten(-1, (POOLING_HEADS, -1)).transpose(1, 2)
