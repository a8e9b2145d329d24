"""One joint block of AsymmDiT (SPEC 2): attention over both streams, then an MLP for each.

A block takes both streams together with their modulated norms, and leaves them likewise: the
norm that the next block begins with is made where the residual is added, in one go.
"""

# Shapes: B batch, r rows of it that have text, N visual tokens, L text tokens, S = N + L,
#         D visual width, E text width, H heads, K head_dim.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.config import DiTConfig
from mochi.model.context import TextContext
from mochi.model.exchange import Attention, OneDevice, TokenExchange
from mochi.model.kernels import Heads, Kernels
from mochi.model.layers import HeadNorm, Linear, SwiGLU, compute_dtype
from mochi.model.modulation import BlockFactors, Factors, Modulation
from mochi.model.rope import Rotary


@dataclass(frozen=True)
class Means:
    """What a block works with besides its weights.

    Attributes:
        rotary: positions of the visual tokens.
        exchange, attention, kernels: how tokens move, attend, and everything between.
    """

    rotary: Rotary
    exchange: TokenExchange
    attention: Attention
    kernels: Kernels


@dataclass(frozen=True)
class Streams:
    """Both streams between two blocks.

    Attributes:
        x_BND, y_rLE: the streams; no text at all is None.
        normed_x, normed_y: their modulated norms, for the block that comes.
        counts: valid text tokens of each row.
        text_rows: the rows that `y` has.
    """

    x_BND: Tensor
    y_rLE: Tensor | None
    counts: tuple[int, ...]
    text_rows: slice
    normed_x: Tensor
    normed_y: Tensor | None


def _joined_text(contexts: Sequence[TextContext]) -> tuple[Tensor | None, slice]:
    """The text stream of the rows that have one, a copy, and where those rows are."""
    longest = max(context.tokens.shape[1] for context in contexts)
    parts, spans, before = [], [], 0
    for context in contexts:
        span = context.text_rows
        if span.stop:
            tokens_rLE = context.tokens[span]
            parts.append(F.pad(tokens_rLE, (0, 0, 0, longest - tokens_rLE.shape[1])))
            spans += [before + span.start, before + span.stop]
        before += len(context.counts)
    return (torch.cat(parts), slice(spans[0], spans[-1])) if parts else (None, slice(0, 0))


class AsymmBlock(nn.Module):
    """Attention over both streams, then an MLP for each; the last block leaves the text."""

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

    def start(
        self,
        x_BND: Tensor,
        contexts: Sequence[TextContext],
        modulation: Modulation,
        kernels: Kernels,
    ) -> Streams:
        """What this block, the first, takes; `x` holds the rows of all contexts."""
        factors = modulation.block(0)
        assert factors is not None
        counts = tuple(count for context in contexts for count in context.counts)
        y_rLE, text_rows = _joined_text(contexts)
        normed_x = kernels.modulated_norm(x_BND, factors.x[0], compute_dtype(self.attn.qkv_x))
        normed_y = None
        if y_rLE is not None and factors.y is not None:
            normed_y = kernels.modulated_norm(y_rLE, factors.y[0], compute_dtype(self.attn.qkv_y))
        return Streams(x_BND, y_rLE, counts, text_rows, normed_x, normed_y)

    def forward(
        self,
        streams: Streams,
        factors: BlockFactors,
        following: BlockFactors | None,
        means: Means,
    ) -> Streams:
        """Update both streams.

        Args:
            streams: as the block before left them; not to be used again.
            factors: this block's modulation of visual and text tokens.
            following: the next block's; None at the last.
            means: what to work with.
        """
        x_attn, y_attn = self.attn(streams, means)
        after_x, after_y = following or (None, None)
        x_BND, normed_x = _through_mlp(
            streams.x_BND, x_attn, factors.x, after_x, self.mlp_x, self.attn.qkv_x, means.kernels
        )
        if not self.updates_text or y_attn is None or streams.y_rLE is None:
            return replace(streams, x_BND=x_BND, normed_x=normed_x)
        assert factors.y is not None
        y_rLE, normed_y = _through_mlp(
            streams.y_rLE, y_attn, factors.y, after_y, self.mlp_y, self.attn.qkv_y, means.kernels
        )
        return replace(streams, x_BND=x_BND, normed_x=normed_x, y_rLE=y_rLE, normed_y=normed_y)


def _through_mlp(
    x_BND: Tensor,
    attended_BND: Tensor,
    factors: Factors,
    following: Factors | None,
    mlp: SwiGLU,
    next_layer: nn.Module,
    kernels: Kernels,
) -> tuple[Tensor, Tensor]:
    """Attention's residual, the MLP and its residual; then the norm for the next block, if any."""
    _, attn_gate, mlp_scale, mlp_gate = factors
    x_BND, normed = kernels.residual_norm(
        x_BND, attended_BND, attn_gate, mlp_scale, compute_dtype(mlp.w1)
    )
    moved = mlp(normed, kernels)
    if following is None:
        x_BND = kernels.gated_residual(x_BND, moved, mlp_gate)
        return x_BND, x_BND
    return kernels.residual_norm(x_BND, moved, mlp_gate, following[0], compute_dtype(next_layer))


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

    def forward(self, streams: Streams, means: Means) -> tuple[Tensor, Tensor | None]:
        """Attention outputs of both streams; None for the text where nothing reads it."""
        q, k, v, tokens = self._gathered(streams, means)
        out_BShK = attend_valid(q, k, v, tokens, streams.counts, means.attention)
        arrived = means.exchange.heads_to_tokens(out_BShK[:, :tokens])
        projected = [self.proj_x(part.flatten(2)) for part in arrived]
        out_x = projected[0] if len(projected) == 1 else torch.cat(projected, dim=1)
        if streams.normed_y is None or not hasattr(self, "proj_y"):
            return out_x, None
        out_y = means.exchange.gather_text_heads(out_BShK[streams.text_rows, tokens:])
        return out_x, self.proj_y(out_y.flatten(2))

    def _gathered(self, streams: Streams, means: Means) -> tuple[Tensor, Tensor, Tensor, int]:
        """q, k, v of this device's heads for all tokens, and how many of those are visual."""
        here = streams.x_BND.shape[1]
        parts = means.exchange.token_parts(here)
        if len(parts) > 1:
            return self._gathered_in_parts(streams, means, parts)
        joined = means.kernels.join_heads(self._streams(streams, means.rotary), len(streams.counts))
        if type(means.exchange) is OneDevice:
            return *joined, here
        visual = joined[0][:, :here], joined[1][:, :here], joined[2][:, :here]
        moved = means.exchange.tokens_to_heads([visual])
        tokens = moved[0].shape[1]
        if streams.normed_y is None:
            return *moved, tokens
        text = tuple(part[:, here:] for part in joined)
        shared = tuple(means.exchange.text_heads(part) for part in text)
        if all(new is old for new, old in zip((*moved, *shared), (*visual, *text), strict=True)):
            return *joined, tokens  # nothing moved: they stand behind each other already
        q, k, v = (torch.cat(pair, dim=1) for pair in zip(moved, shared, strict=True))
        return q, k, v, tokens

    def _gathered_in_parts(
        self, streams: Streams, means: Means, parts: Sequence[slice]
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """The same; one part of the tokens may travel while the next one is computed."""
        rows = len(streams.counts)
        made = (
            means.kernels.join_heads([self._visual(streams, means.rotary, part)], rows)
            for part in parts
        )
        q, k, v = means.exchange.tokens_to_heads(made)
        tokens = q.shape[1]
        if streams.normed_y is not None:
            text = means.kernels.join_heads([self._text(streams, streams.normed_y)], rows)
            shared = (means.exchange.text_heads(part).to(q.dtype) for part in text)
            q, k, v = (torch.cat(pair, dim=1) for pair in zip((q, k, v), shared, strict=True))
        return q, k, v, tokens

    def _streams(self, streams: Streams, rotary: Rotary) -> list[Heads]:
        found = [self._visual(streams, rotary)]
        if streams.normed_y is not None:
            found.append(self._text(streams, streams.normed_y))
        return found

    def _visual(self, streams: Streams, rotary: Rotary, part: slice | None = None) -> Heads:
        normed_x = streams.normed_x
        if part is not None:
            normed_x, rotary = normed_x[:, part], rotary.part(part.start, part.stop)
        qkv = self._split(self.qkv_x(normed_x))
        return Heads(qkv, self.q_norm_x.weight, self.k_norm_x.weight, rotary)

    def _text(self, streams: Streams, normed_y: Tensor) -> Heads:
        qkv = self._split(self.qkv_y(normed_y))
        return Heads(qkv, self.q_norm_y.weight, self.k_norm_y.weight, rows=streams.text_rows)

    def _split(self, qkv: Tensor) -> Tensor:
        return qkv.view(*qkv.shape[:-1], 3, self.heads, -1)


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
    out_BSHK = torch.zeros_like(q_BSHK)
    for count in sorted(set(counts)):
        rows = _as_slice([row for row, other in enumerate(counts) if other == count])
        length = visual_tokens + count
        group = attention(*(x[rows, :length] for x in (q_BSHK, k_BSHK, v_BSHK)))
        out_BSHK[rows, :length] = group
    return out_BSHK


def _as_slice(rows: list[int]) -> slice | list[int]:
    """Rows beside each other as a slice, which copies nothing."""
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows
