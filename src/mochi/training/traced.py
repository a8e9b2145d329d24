"""The bytes of activations and gradients that a training step holds, counted without doing it."""

# Shapes: B batch, S tokens, H heads, K head_dim.

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mochi.core.config import DiTConfig
from mochi.core.sizes import VideoSize
from mochi.memory.trace import LiveBytes
from mochi.model.context import TextContext
from mochi.model.dit import AsymmDiT
from mochi.training.adapter import NewAdapter
from mochi.training.config import Config, Lora
from mochi.training.precision import as_trainable, keep_masters
from mochi.training.recompute import Recomputing

_LESS, _MORE = 2, 3
"""Depths that are traced; the last block is unlike the others, so one is too few."""


def step_bytes(
    config: Config, shape: DiTConfig, dtype: torch.dtype, size: VideoSize, rows: int, twice: int
) -> int:
    """The most bytes at one time, forward and back, beside weights and optimiser.

    Args:
        config: what learns.
        shape: of the network.
        dtype: what it computes in.
        size: of the clips.
        rows: clips at a time.
        twice: blocks that compute again on the way back.
    """
    lora = config.lora if config.model.train == "lora" else None
    facts = (lora, dtype, size, rows, config.training.context)
    depths = (_LESS, _MORE)
    twice_less, twice_more = (_traced(_cut(shape, it), it, *facts) for it in depths)
    once_less, once_more = (_traced(_cut(shape, it), 0, *facts) for it in depths)
    each_twice, each_once = twice_more - twice_less, once_more - once_less
    if not twice:
        return once_less + each_once * (shape.depth - _LESS)
    # The most is held either between there and back, when no gradient has come yet, or when the
    # first block computes again: what the blocks behind it kept has gone, their gradients are here.
    gradients = 0 if lora is not None else _block_gradients(shape)
    once = shape.depth - twice
    between = once_less + each_once * (once - _LESS) + max(0, each_twice - gradients) * twice
    again = twice_less + each_twice * (twice - _LESS) + gradients * once
    return max(between, again)


def _block_gradients(shape: DiTConfig) -> int:
    """Bytes of the gradients of a whole block, float32."""
    with torch.device("meta"):
        block = AsymmDiT(_cut(shape, _LESS)).blocks[0]
    return 4 * sum(parameter.numel() for parameter in block.parameters())


def _cut(shape: DiTConfig, depth: int) -> DiTConfig:
    return replace(shape, depth=depth)


@lru_cache(maxsize=64)
def _traced(
    shape: DiTConfig,
    twice: int,
    lora: Lora | None,
    dtype: torch.dtype,
    size: VideoSize,
    rows: int,
    context: int,
) -> int:
    with torch.device("meta"):
        dit = AsymmDiT(shape).requires_grad_(False)
        _ready(dit, lora, dtype)
        dit.attention = _KeptAttention.apply
        dit.residency = Recomputing(twice)
        frames = -(-size.latent.frames // context)
        latent = (rows, shape.latent_channels, frames, size.latent.height, size.latent.width)
        text = torch.empty(rows, shape.text_tokens, shape.text_features, dtype=dtype)
        mask = torch.ones(rows, shape.text_tokens, dtype=torch.bool)
        with LiveBytes() as count:
            tokens = dit.t5_yproj(text)
            pooled = dit.t5_y_embedder(text, mask)
            prompt = TextContext(tokens, (shape.text_tokens,) * rows, pooled)
            noisy, target = torch.empty(latent), torch.empty(latent)
            velocity = dit.velocity(noisy, torch.empty(rows), prompt)
            loss = (velocity - target).square().mean()
            loss.backward()
        return count.peak


def _ready(dit: AsymmDiT, lora: Lora | None, dtype: torch.dtype) -> None:
    """As the base is held while it trains."""
    if lora is not None:
        dit.to(dtype)
        NewAdapter(dit, replace(lora, rank=min(lora.rank, _least_width(dit))), seed=0)
        return
    as_trainable(dit)
    if dtype == torch.bfloat16:
        keep_masters(dit)


def _least_width(dit: AsymmDiT) -> int:
    return min(dit.config.text_width, dit.config.text_features, dit.config.visual_width)


class _KeptAttention(torch.autograd.Function):
    """What attention kernels keep for the way back: inputs, output, and a sum for each query."""

    @staticmethod
    def forward(ctx: Any, q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
        out = torch.empty_like(q_BSHK)
        sums = torch.empty(q_BSHK.shape[:3], dtype=torch.float32, device=q_BSHK.device)
        ctx.save_for_backward(q_BSHK, k_BSHK, v_BSHK, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
