"""AsymmDiT, the asymmetric diffusion transformer of Mochi 1 (SPEC 2).

Many visual tokens and a few text tokens attend to each other in every block; each stream has its
own width and its own weights. Read it from the top: the model, a block, attention, the ends.
"""

# Shapes: B batch, C latent channels, T H W latent frames and pixels, N visual tokens, L text
#         tokens, S = N + L, D visual width, E text width, G text features, H heads, K head_dim.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.config import DiTConfig
from mochi.core.errors import RequestError
from mochi.model.conditioning import AttentionPool, TimestepEmbedder
from mochi.model.exchange import Attention, OneDevice, TokenExchange, attend
from mochi.model.layers import HeadNorm, Linear, SwiGLU, gated_residual, modulated_norm
from mochi.model.rope import positions, rotary_factors, rotate

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class TextContext:
    """A batch of prompts as the network wants them, made once and used in every step.

    Attributes:
        tokens: projected tokens `(B, L, E)`, valid ones first, cut to the longest prompt.
        counts: valid tokens of each row.
        pooled: `(B, D)`.
    """

    tokens: Tensor
    counts: tuple[int, ...]
    pooled: Tensor


class AsymmDiT(nn.Module):
    """Predicts the velocity `z0 - eps` of a noisy latent from its noise level and a prompt.

    Parameters have the published names. Each computes in its stored dtype; norms, modulation,
    rotary positions and the result are float32 whatever that is.

    Attributes:
        exchange: how tokens move between devices; `OneDevice()` unless replaced.
        attention: the attention kernel; PyTorch's unless replaced.
    """

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        self.exchange: TokenExchange = OneDevice()
        self.attention: Attention = attend
        self.x_embedder = PatchEmbed(config)
        self.t_embedder = TimestepEmbedder(config.visual_width, config.time_features)
        self.t5_y_embedder = AttentionPool(config.text_features, config.visual_width)
        self.t5_yproj = Linear(config.text_features, config.text_width)
        self.pos_frequencies = nn.Parameter(torch.empty(3, config.heads, config.head_dim // 2))
        if not self.pos_frequencies.is_meta:  # there it would import torch._dynamo, 1.6 s
            nn.init.normal_(self.pos_frequencies, std=0.02)
        self.blocks = nn.ModuleList(
            AsymmBlock(config, updates_text=index < config.depth - 1)
            for index in range(config.depth)
        )
        self.final_layer = FinalLayer(config)

    def forward(
        self, z_BCTHW: Tensor, sigma_B: Tensor, text_BLG: Tensor, mask_BL: Tensor
    ) -> Tensor:
        """Velocity of a latent.

        Args:
            z_BCTHW: noisy latent in DiT space, height and width even.
            sigma_B: noise level of each row, from 0 (clean) to 1 (noise).
            text_BLG: text features.
            mask_BL: True where a token is valid; rows may differ, a row may have none.

        Returns:
            Velocity, float32, shaped as the latent.

        Raises:
            RequestError: shapes do not go together.
        """
        return self.velocity(z_BCTHW, sigma_B, self.prepare_text(text_BLG, mask_BL))

    def prepare_text(self, text_BLG: Tensor, mask_BL: Tensor) -> TextContext:
        """Everything about the prompts that does not depend on the step.

        Raises:
            RequestError: shapes do not go together.
        """
        self._check_text(text_BLG, mask_BL)
        mask_BL = mask_BL.bool()
        counts = tuple(int(count) for count in mask_BL.sum(dim=1).tolist())
        # Attention has no order, so valid tokens may come first whatever the mask looks like.
        order_BL = torch.argsort(~mask_BL, dim=1, stable=True)[:, : max(counts, default=0)]
        packed_BLG = text_BLG.gather(1, order_BL.unsqueeze(-1).expand(-1, -1, text_BLG.shape[-1]))
        pooled_BD = self.t5_y_embedder(text_BLG, mask_BL)
        return TextContext(self.t5_yproj(packed_BLG), counts, pooled_BD)

    def velocity(self, z_BCTHW: Tensor, sigma_B: Tensor, context: TextContext) -> Tensor:
        """As `forward`, for prompts that are prepared already."""
        self._check_latent(z_BCTHW, sigma_B, context)
        _, _, frames, height, width = z_BCTHW.shape
        rows, columns = height // self.config.patch, width // self.config.patch
        rotary = self._rotary(frames, rows, columns, z_BCTHW.device)
        c_BD = F.silu(self.t_embedder(sigma_B) + context.pooled)

        x_BND = self.exchange.split_tokens(self.x_embedder(z_BCTHW))
        y_BLE = context.tokens
        for block in self.blocks:
            x_BND, y_BLE = block(
                x_BND, y_BLE, c_BD, rotary, context.counts, self.exchange, self.attention
            )
        out_BNP = self.exchange.gather_tokens(self.final_layer(x_BND, c_BD))
        return unpatchify(out_BNP.float(), frames, rows, columns, self.config.patch)

    def _rotary(self, frames: int, rows: int, columns: int, device: torch.device) -> Rotary:
        where_N3 = positions(frames, rows, columns, device)
        where_1N3 = self.exchange.split_tokens(where_N3.unsqueeze(0))
        return rotary_factors(self.pos_frequencies, where_1N3[0])

    def _check_text(self, text_BLG: Tensor, mask_BL: Tensor) -> None:
        features = self.config.text_features
        if text_BLG.ndim != 3 or text_BLG.shape[-1] != features:
            raise RequestError(
                "text",
                tuple(text_BLG.shape),
                "is not (batch, tokens, features)",
                f"(B, L, {features})",
            )
        if mask_BL.shape != text_BLG.shape[:2]:
            raise RequestError(
                "mask", tuple(mask_BL.shape), "does not cover the text", tuple(text_BLG.shape[:2])
            )

    def _check_latent(self, z_BCTHW: Tensor, sigma_B: Tensor, context: TextContext) -> None:
        shape, patch = tuple(z_BCTHW.shape), self.config.patch
        if len(shape) != 5 or shape[1] != self.config.latent_channels:
            raise RequestError(
                "latent", shape, f"is not (batch, {self.config.latent_channels}, t, h, w)"
            )
        if shape[3] % patch or shape[4] % patch or 0 in shape:
            raise RequestError(
                "latent", shape, f"has a height or width that is no multiple of {patch}"
            )
        if sigma_B.shape != shape[:1]:
            raise RequestError("sigma", tuple(sigma_B.shape), "is not one per row", shape[:1])
        if len(context.counts) != shape[0]:
            raise RequestError(
                "text", len(context.counts), "is not one prompt per latent", shape[0]
            )


class AsymmBlock(nn.Module):
    """One joint block: attention over both streams, then an MLP for each."""

    def __init__(self, config: DiTConfig, updates_text: bool):
        super().__init__()
        wide, narrow = config.visual_width, config.text_width
        self.updates_text = updates_text
        self.mod_x = Linear(wide, 4 * wide)
        self.mod_y = Linear(wide, 4 * narrow if updates_text else narrow)
        self.attn = JointAttention(config, updates_text)
        self.mlp_x = SwiGLU(wide, config.visual_ffn)
        if updates_text:
            self.mlp_y = SwiGLU(narrow, config.text_ffn)

    def forward(
        self,
        x_BND: Tensor,
        y_BLE: Tensor,
        c_BD: Tensor,
        rotary: Rotary,
        counts: Sequence[int],
        exchange: TokenExchange,
        attention: Attention,
    ) -> tuple[Tensor, Tensor]:
        """Update both streams; `c` is SiLU of the conditioning. The last block leaves the text."""
        scale_attn, gate_attn, scale_mlp, gate_mlp = self.mod_x(c_BD).chunk(4, dim=-1)
        text_mod = self.mod_y(c_BD).chunk(4 if self.updates_text else 1, dim=-1)

        x_attn, y_attn = self.attn(
            modulated_norm(x_BND, scale_attn),
            modulated_norm(y_BLE, text_mod[0]),
            rotary,
            counts,
            exchange,
            attention,
        )
        x_BND = gated_residual(x_BND, x_attn, gate_attn)
        x_BND = gated_residual(x_BND, self.mlp_x(modulated_norm(x_BND, scale_mlp)), gate_mlp)
        if self.updates_text and y_attn is not None:
            _, gate_attn, scale_mlp, gate_mlp = text_mod
            y_BLE = gated_residual(y_BLE, y_attn, gate_attn)
            y_BLE = gated_residual(y_BLE, self.mlp_y(modulated_norm(y_BLE, scale_mlp)), gate_mlp)
        return x_BND, y_BLE


class JointAttention(nn.Module):
    """One softmax over visual tokens and valid text tokens; both streams speak Dx-wide heads."""

    def __init__(self, config: DiTConfig, updates_text: bool):
        super().__init__()
        wide, narrow = config.visual_width, config.text_width
        self.heads = config.heads
        self.qkv_x = Linear(wide, 3 * wide, bias=False)
        self.qkv_y = Linear(narrow, 3 * wide, bias=False)
        self.q_norm_x = HeadNorm(config.head_dim)
        self.k_norm_x = HeadNorm(config.head_dim)
        self.q_norm_y = HeadNorm(config.head_dim)
        self.k_norm_y = HeadNorm(config.head_dim)
        self.proj_x = Linear(wide, wide)
        if updates_text:
            self.proj_y = Linear(wide, narrow)

    def forward(
        self,
        x_BND: Tensor,
        y_BLE: Tensor,
        rotary: Rotary,
        counts: Sequence[int],
        exchange: TokenExchange,
        attention: Attention,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention outputs of both streams; None for the text where nothing reads it."""
        q, k, v = self._heads(self.qkv_x(x_BND))
        q = rotate(self.q_norm_x(q), *rotary).to(v.dtype)
        k = rotate(self.k_norm_x(k), *rotary).to(v.dtype)
        q, k, v = exchange.tokens_to_heads(q, k, v)
        tokens = q.shape[1]
        text = None
        if y_BLE.shape[1]:
            q_y, k_y, v_y = self._heads(self.qkv_y(y_BLE))
            q_y, k_y = self.q_norm_y(q_y).to(v.dtype), self.k_norm_y(k_y).to(v.dtype)
            text = [exchange.text_heads(part) for part in (q_y, k_y, v_y.to(v.dtype))]
            q, k, v = (torch.cat(pair, dim=1) for pair in zip((q, k, v), text, strict=True))

        out_BShK = attend_valid(q, k, v, tokens, counts, attention)
        out_x = self.proj_x(exchange.heads_to_tokens(out_BShK[:, :tokens]).flatten(2))
        if text is None or not hasattr(self, "proj_y"):
            return out_x, None
        out_y = exchange.gather_text_heads(out_BShK[:, tokens:])
        return out_x, self.proj_y(out_y.flatten(2))

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)
        return q, k, v


def attend_valid(
    q_BSHK: Tensor,
    k_BSHK: Tensor,
    v_BSHK: Tensor,
    visual_tokens: int,
    counts: Sequence[int],
    attention: Attention,
) -> Tensor:
    """Attention without padding: sliced off, never masked.

    Rows with equally many text tokens attend together; outputs of padding are zero, and nobody
    reads them.
    """
    if len(set(counts)) <= 1:
        return attention(q_BSHK, k_BSHK, v_BSHK)
    groups: list[Tensor] = []
    order: list[int] = []
    for count in sorted(set(counts)):
        rows = [row for row, other in enumerate(counts) if other == count]
        length = visual_tokens + count
        out = attention(*(x[rows, :length] for x in (q_BSHK, k_BSHK, v_BSHK)))
        groups.append(F.pad(out, (0, 0, 0, 0, 0, q_BSHK.shape[1] - length)))
        order += rows
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(groups)[back]


class PatchEmbed(nn.Module):
    """Latent to tokens: a convolution over 2 x 2 patches of each frame."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.proj = nn.Conv2d(
            config.latent_channels, config.visual_width, config.patch, stride=config.patch
        )

    def forward(self, z_BCTHW: Tensor) -> Tensor:
        """`(B, C, T, H, W)` to `(B, N, D)`, tokens in (t, h, w) order."""
        batch = z_BCTHW.shape[0]
        frames = z_BCTHW.to(self.proj.weight.dtype).transpose(1, 2).flatten(0, 1)
        patches = self.proj(frames)
        return patches.flatten(2).transpose(1, 2).reshape(batch, -1, patches.shape[1])


class FinalLayer(nn.Module):
    """Tokens to patch pixels: LayerNorm, shift and scale, a linear layer."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.mod = Linear(config.visual_width, 2 * config.visual_width)
        self.linear = Linear(config.visual_width, config.patch**2 * config.latent_channels)

    def forward(self, x_BND: Tensor, c_BD: Tensor) -> Tensor:
        """`(B, N, D)` to `(B, N, patch * patch * C)`; `c` is SiLU of the conditioning."""
        shift_BD, scale_BD = self.mod(c_BD).float().chunk(2, dim=-1)
        normed_BND = F.layer_norm(x_BND.float(), x_BND.shape[-1:], eps=1e-6)
        return self.linear(normed_BND * (1 + scale_BD.unsqueeze(1)) + shift_BD.unsqueeze(1))


def unpatchify(out_BNP: Tensor, frames: int, rows: int, columns: int, patch: int) -> Tensor:
    """`(B, N, patch * patch * C)`, packed (p_h, p_w, channel), to `(B, C, T, H, W)`."""
    x = out_BNP.unflatten(1, (frames, rows, columns)).unflatten(-1, (patch, patch, -1))
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
