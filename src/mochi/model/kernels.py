"""The elementwise pieces of a block, between its matrix products and its attention.

They do little arithmetic and move much memory: at 163 frames 2.5 TB a forward pass when each
operation is a kernel of its own, 0.29 TB fused (PERFORMANCE 1). `PlainKernels` is the definition,
and carries gradients. Others have the same methods and the same results within rounding.
"""

# Shapes: B batch, N tokens, D width, S = N + L all tokens, H heads, K head_dim, 3 = q, k, v,
#         F hidden width of an MLP.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mochi.model.rope import Rotary, rotate

NORM_EPS, HEAD_EPS = 1e-6, 1e-5

QKV = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Heads:
    """One stream's queries, keys and values as its layer gave them.

    Attributes:
        qkv_BN3HK: the layer's output.
        q_norm_K, k_norm_K: weights of the norms over head_dim.
        rotary: for visual tokens.
        rows: which rows of the batch these are; None for all.
    """

    qkv_BN3HK: Tensor
    q_norm_K: Tensor
    k_norm_K: Tensor
    rotary: Rotary | None = None
    rows: slice | None = None


class Kernels(Protocol):
    """What a block asks for. `x`, `y` and `ab` are the caller's last use: a kernel may overwrite
    them."""

    name: str

    def on(self, device: torch.device) -> Kernels:
        """Those that work on this device: as a rule themselves."""
        ...

    def modulated_norm(self, x_BND: Tensor, scale_B1D: Tensor, dtype: torch.dtype) -> Tensor:
        """`x / rms(x) * scale` in `dtype`, float32 inside, eps 1e-6. `x` is kept."""
        ...

    def gated_residual(self, x_BND: Tensor, y_BND: Tensor, gate_B1D: Tensor) -> Tensor:
        """`x + y / rms(y) * gate` in x's dtype: the sandwich norm, float32 inside, eps 1e-6."""
        ...

    def residual_norm(
        self,
        x_BND: Tensor,
        y_BND: Tensor,
        gate_B1D: Tensor,
        scale_B1D: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """`gated_residual`, and the `modulated_norm` of its result."""
        ...

    def join_heads(self, streams: Sequence[Heads], rows: int) -> QKV:
        """Norm q and k of each stream, rotate the visual ones, and put the streams behind each
        other: `(rows, S, H, K)` each. Rows that a stream does not have stay unset there."""
        ...

    def shifted_norm(
        self, x_BND: Tensor, scale_B1D: Tensor, shift_B1D: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """LayerNorm without weights, times scale, plus shift; float32 inside, eps 1e-6."""
        ...

    def silu_mul(self, ab_BNF: Tensor) -> Tensor:
        """`silu(a) * b` of the two halves of the last dimension."""
        ...


class PlainKernels:
    """One operation after the other, as SPEC 2 writes them."""

    name = "plain"

    def on(self, device: torch.device) -> Kernels:
        return self

    def modulated_norm(self, x_BND: Tensor, scale_B1D: Tensor, dtype: torch.dtype) -> Tensor:
        normed_BND = F.rms_norm(x_BND.float(), x_BND.shape[-1:], eps=NORM_EPS)
        return (normed_BND * scale_B1D).to(dtype)

    def gated_residual(self, x_BND: Tensor, y_BND: Tensor, gate_B1D: Tensor) -> Tensor:
        normed_BND = F.rms_norm(y_BND.float(), y_BND.shape[-1:], eps=NORM_EPS)
        return x_BND + (normed_BND * gate_B1D).to(x_BND.dtype)

    def residual_norm(
        self,
        x_BND: Tensor,
        y_BND: Tensor,
        gate_B1D: Tensor,
        scale_B1D: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        x_BND = self.gated_residual(x_BND, y_BND, gate_B1D)
        return x_BND, self.modulated_norm(x_BND, scale_B1D, dtype)

    def join_heads(self, streams: Sequence[Heads], rows: int) -> QKV:
        done = []
        for stream in streams:
            turns = None if stream.rotary is None else stream.rotary.cos_sin
            weights = stream.q_norm_K, stream.k_norm_K
            done.append((plain_heads(stream.qkv_BN3HK, *weights, turns), stream.rows))
        return joined(done, rows)

    def shifted_norm(
        self, x_BND: Tensor, scale_B1D: Tensor, shift_B1D: Tensor, dtype: torch.dtype
    ) -> Tensor:
        normed_BND = F.layer_norm(x_BND.float(), x_BND.shape[-1:], eps=NORM_EPS)
        return (normed_BND * scale_B1D + shift_B1D).to(dtype)

    def silu_mul(self, ab_BNF: Tensor) -> Tensor:
        a_BNF, b_BNF = ab_BNF.chunk(2, dim=-1)
        return F.silu(a_BNF) * b_BNF


def plain_heads(
    qkv_BN3HK: Tensor, q_norm_K: Tensor, k_norm_K: Tensor, turns: tuple[Tensor, Tensor] | None
) -> QKV:
    """Norm of q and k, rotation where there are positions, in the dtype of v."""
    q, k, v = qkv_BN3HK.unbind(2)
    q, k = _normed(q, q_norm_K), _normed(k, k_norm_K)
    if turns is not None:
        q, k = rotate(q, *turns), rotate(k, *turns)
    return q.to(v.dtype), k.to(v.dtype), v


def _normed(x_BNHK: Tensor, weight_K: Tensor) -> Tensor:
    return F.rms_norm(x_BNHK.float(), x_BNHK.shape[-1:], weight_K.float(), eps=HEAD_EPS)


def joined(streams: Sequence[tuple[QKV, slice | None]], rows: int) -> QKV:
    """Streams behind each other, each with the rows it has, in the first one's dtype."""
    done = [_all_rows(parts, at, rows) for parts, at in streams]
    if len(done) == 1:
        return done[0]
    dtype = done[0][0].dtype
    pieces = zip(*done, strict=True)
    q, k, v = (torch.cat([part.to(dtype) for part in parts], 1) for parts in pieces)
    return q, k, v


def _all_rows(parts: QKV, at: slice | None, rows: int) -> QKV:
    """With rows of zeros before and after, where only some rows have this stream."""
    if at is None or at.stop - at.start == rows:
        return parts
    before, after = at.start, rows - at.stop
    q, k, v = (F.pad(part, (0, 0, 0, 0, 0, 0, before, after)) for part in parts)
    return q, k, v
