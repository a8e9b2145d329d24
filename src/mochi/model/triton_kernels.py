"""The elementwise pieces as Triton kernels for CUDA: each reads its inputs once and writes once.

A forward pass at 163 frames moves 2.5 TB through them as operations of their own and 0.29 TB as
these (PERFORMANCE 1). Arithmetic is float32 throughout. Imported on CUDA only; on a CPU they run in
Triton's interpreter (TRITON_INTERPRET=1), which is how they are tested where there is no GPU.
"""

# Shapes: B batch, N tokens, D width, S all tokens, H heads, K head_dim, F hidden width.

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from mochi.model.kernels import HEAD_EPS, NORM_EPS, QKV, Heads
from mochi.model.lean import LeanKernels
from mochi.model.rope import Rotary

_NO_TURN, _BY_TABLES, _BY_TOKEN = 0, 1, 2


@triton.jit
def _residual_norm(
    x, y, gate, scale, x_out, out, tokens, width, gate_stride, scale_stride, eps,
    HAS_RESIDUAL: tl.constexpr, HAS_NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: x + y / rms(y) * gate, then the norm of that times scale."""
    token = tl.program_id(0).to(tl.int64)
    row = token // tokens
    column = tl.arange(0, BLOCK)
    inside = column < width
    place = token * width + column
    value = tl.load(x + place, mask=inside, other=0.0)
    kind = value.dtype
    value = value.to(tl.float32)
    if HAS_RESIDUAL:
        moved = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
        moved *= tl.rsqrt(tl.sum(moved * moved, 0) / width + eps)
        factor = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0)
        value = (value + moved * factor).to(kind)
        tl.store(x_out + place, value, mask=inside)
        value = value.to(tl.float32)
    if HAS_NORM:
        value *= tl.rsqrt(tl.sum(value * value, 0) / width + eps)
        factor = tl.load(scale + row * scale_stride + column, mask=inside, other=0.0)
        tl.store(out + place, (value * factor).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _times(a_real, a_imaginary, b_real, b_imaginary):
    """A product of complex numbers."""
    real = a_real * b_real - a_imaginary * b_imaginary
    return real, a_real * b_imaginary + a_imaginary * b_real


@triton.jit
def _normed_head(head, weight, width, eps, even, odd, inside):
    """The two halves of the pairs of some heads, normed and weighted."""
    a = tl.load(head + even, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(head + odd, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / width + eps)[:, None]
    a *= inverse * tl.load(weight + (even % width)).to(tl.float32)
    b *= inverse * tl.load(weight + (odd % width)).to(tl.float32)
    return a, b


@triton.jit
def _heads(
    qkv, q_weight, k_weight, out, turns, rows_turns, columns_turns,
    tokens, rows, columns, heads, before, row_stride, part_stride, eps,
    TURN: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: norm and rotate q and k, move q, k and v to their places."""
    token = tl.program_id(0).to(tl.int64)
    row, place = token // tokens, token % tokens
    HALF: tl.constexpr = WIDTH // 2
    head = tl.arange(0, BLOCK)[:, None]
    pair = tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (pair < HALF)
    even, odd = head * WIDTH + 2 * pair, head * WIDTH + 2 * pair + 1
    turn = 2 * (head * HALF + pair)
    per_token = heads * WIDTH
    source = qkv + token * 3 * per_token
    target = out + row * row_stride + (before + place) * per_token
    if TURN == 1:
        frame, rest = place // (rows * columns), place % (rows * columns)
        t = turns + frame * per_token + turn
        h = rows_turns + (rest // columns) * per_token + turn
        w = columns_turns + (rest % columns) * per_token + turn
        cos, sin = _times(
            tl.load(t, mask=inside, other=0.0), tl.load(t + 1, mask=inside, other=0.0),
            tl.load(h, mask=inside, other=0.0), tl.load(h + 1, mask=inside, other=0.0),
        )  # fmt: skip
        cos, sin = _times(
            cos, sin, tl.load(w, mask=inside, other=0.0), tl.load(w + 1, mask=inside, other=0.0)
        )
    if TURN == 2:
        t = turns + place * per_token + turn
        cos = tl.load(t, mask=inside, other=0.0)
        sin = tl.load(t + 1, mask=inside, other=0.0)
    kind = out.dtype.element_ty
    for part in tl.static_range(2):
        weight = q_weight if part == 0 else k_weight
        a, b = _normed_head(source + part * per_token, weight, WIDTH, eps, even, odd, inside)
        if TURN != 0:
            a, b = _times(a, b, cos, sin)
        tl.store(target + part * part_stride + even, a.to(kind), mask=inside)
        tl.store(target + part * part_stride + odd, b.to(kind), mask=inside)
    for offset in (even, odd):
        value = tl.load(source + 2 * per_token + offset, mask=inside, other=0.0)
        tl.store(target + 2 * part_stride + offset, value.to(kind), mask=inside)


@triton.jit
def _silu_mul(ab, out, width, BLOCK: tl.constexpr):
    """A stretch of one token: silu(a) * b."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    a = tl.load(ab + token * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(ab + (token * 2 + 1) * width + column, mask=inside, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    tl.store(out + token * width + column, (a * tl.sigmoid(a) * b).to(kind), mask=inside)


class TritonKernels(LeanKernels):
    """Fused kernels; the final layer's norm, once a pass, is the lean one."""

    name = "triton"

    def modulated_norm(self, x_BND: Tensor, scale_B1D: Tensor, dtype: torch.dtype) -> Tensor:
        x_BND = x_BND.contiguous()
        out_BND = torch.empty_like(x_BND, dtype=dtype)
        _launch(x_BND, None, None, scale_B1D, out_BND)
        return out_BND

    def gated_residual(self, x_BND: Tensor, y_BND: Tensor, gate_B1D: Tensor) -> Tensor:
        x_BND = x_BND.contiguous()
        _launch(x_BND, y_BND.contiguous(), gate_B1D, None, x_BND)
        return x_BND

    def residual_norm(
        self,
        x_BND: Tensor,
        y_BND: Tensor,
        gate_B1D: Tensor,
        scale_B1D: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        x_BND, y_BND = x_BND.contiguous(), y_BND.contiguous()
        out_BND = y_BND if y_BND.dtype == dtype else torch.empty_like(y_BND, dtype=dtype)
        _launch(x_BND, y_BND, gate_B1D, scale_B1D, out_BND)
        return x_BND, out_BND

    def join_heads(self, streams: Sequence[Heads], rows: int) -> QKV:
        first = streams[0].qkv_BN3HK
        heads, head_dim = first.shape[-2:]
        tokens = sum(stream.qkv_BN3HK.shape[1] for stream in streams)
        joined_3BSHK = first.new_empty(3, rows, tokens, heads, head_dim)
        before = 0
        for stream in streams:
            at = stream.rows or slice(0, rows)
            _launch_heads(stream, joined_3BSHK[:, at], before)
            before += stream.qkv_BN3HK.shape[1]
        q_BSHK, k_BSHK, v_BSHK = joined_3BSHK.unbind(0)
        return q_BSHK, k_BSHK, v_BSHK

    def silu_mul(self, ab_BNF: Tensor) -> Tensor:
        ab_BNF = ab_BNF.contiguous()
        width = ab_BNF.shape[-1] // 2
        out_BNF = ab_BNF.new_empty(*ab_BNF.shape[:-1], width)
        block = min(2048, triton.next_power_of_2(width))
        grid = (out_BNF.numel() // width, triton.cdiv(width, block))
        _silu_mul[grid](ab_BNF, out_BNF, width, BLOCK=block)
        return out_BNF


def _launch(
    x_BND: Tensor,
    y_BND: Tensor | None,
    gate_B1D: Tensor | None,
    scale_B1D: Tensor | None,
    out_BND: Tensor,
) -> None:
    batch, tokens, width = x_BND.shape
    block = triton.next_power_of_2(width)
    _residual_norm[(batch * tokens,)](
        x_BND,
        x_BND if y_BND is None else y_BND,
        x_BND if gate_B1D is None else gate_B1D,
        x_BND if scale_B1D is None else scale_B1D,
        x_BND,
        out_BND,
        tokens,
        width,
        0 if gate_B1D is None else gate_B1D.stride(0),
        0 if scale_B1D is None else scale_B1D.stride(0),
        NORM_EPS,
        HAS_RESIDUAL=y_BND is not None,
        HAS_NORM=scale_B1D is not None,
        BLOCK=block,
        num_warps=max(1, min(16, block // 512)),
    )


def _launch_heads(stream: Heads, out_3BSHK: Tensor, before: int) -> None:
    """Norm, rotate and lay down one stream behind `before` tokens."""
    qkv_BN3HK = stream.qkv_BN3HK.contiguous()
    batch, tokens, _, heads, head_dim = qkv_BN3HK.shape
    kind, turns, rows, columns = _turns(stream.rotary)
    block = triton.next_power_of_2(heads)
    _heads[(batch * tokens,)](
        qkv_BN3HK,
        stream.q_norm_K,
        stream.k_norm_K,
        out_3BSHK,
        *(qkv_BN3HK if table is None else table for table in turns),
        tokens,
        rows,
        columns,
        heads,
        before,
        out_3BSHK.stride(1),
        out_3BSHK.stride(0),
        HEAD_EPS,
        TURN=kind,
        WIDTH=head_dim,
        BLOCK=block,
        num_warps=4,
    )


def _turns(rotary: Rotary | None) -> tuple[int, Sequence[Tensor | None], int, int]:
    """How a stream is rotated, the tables as pairs of floats, and rows and columns of a frame."""
    if rotary is None:
        return _NO_TURN, (None, None, None), 1, 1
    tables = rotary.tables
    if tables is None:
        return _BY_TOKEN, (rotary.pairs, None, None), 1, 1
    small = (tables.frames_THF, tables.rows_RHF, tables.columns_CHF)
    views = [torch.view_as_real(table).contiguous() for table in small]
    return _BY_TABLES, views, tables.rows_RHF.shape[0], tables.columns_CHF.shape[0]
