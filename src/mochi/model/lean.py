"""The elementwise pieces for a CPU: a few tokens at a time, so that what is between stays in cache.

One operation after the other over all tokens writes every intermediate result to memory and reads
it back; large ones are also mapped and unmapped by the C library each time. Over slices of some
hundred kilobytes the same operations run at the speed of the cache: 21 ms in place of 183 for a
residual and the norm behind it, 70 in place of 346 for the heads (3,180 tokens of width 3072 in
bfloat16, one core of an EPYC with AVX512_BF16, 2026-11-22).
"""

# Shapes: B batch, N tokens, D width, S all tokens, H heads, K head_dim, F hidden width, n a slice
#         of the tokens, 2 = q, k, 3 = q, k, v.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mochi.model.kernels import HEAD_EPS, NORM_EPS, QKV, Heads, Kernels

_SLICE, _DEVICE_SLICE = 2**17, 2**24
"""Numbers in a slice: on a CPU for each thread, half a megabyte in float32, about half of a core's
cache; elsewhere so many that the device is busy."""


class LeanKernels:
    """In slices, in place, without temporaries that outgrow the cache. For inference: overwrites
    what it is given, and carries no gradients."""

    name = "lean"

    def on(self, device: torch.device) -> Kernels:
        return self

    def modulated_norm(self, x_BND: Tensor, scale_B1D: Tensor, dtype: torch.dtype) -> Tensor:
        out_BND = torch.empty_like(x_BND, dtype=dtype)
        for x_BnD, out_BnD in _slices(x_BND, out_BND):
            _normed_into(out_BnD, x_BnD, scale_B1D)
        return out_BND

    def gated_residual(self, x_BND: Tensor, y_BND: Tensor, gate_B1D: Tensor) -> Tensor:
        for x_BnD, y_BnD in _slices(x_BND, y_BND):
            _add_gated(x_BnD, y_BnD, gate_B1D)
        return x_BND

    def residual_norm(
        self,
        x_BND: Tensor,
        y_BND: Tensor,
        gate_B1D: Tensor,
        scale_B1D: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        out_BND = y_BND if y_BND.dtype == dtype else torch.empty_like(y_BND, dtype=dtype)
        for x_BnD, y_BnD, out_BnD in _slices(x_BND, y_BND, out_BND):
            _normed_into(out_BnD, _add_gated(x_BnD, y_BnD, gate_B1D), scale_B1D)
        return x_BND, out_BND

    def join_heads(self, streams: Sequence[Heads], rows: int) -> QKV:
        first = streams[0].qkv_BN3HK
        tokens = sum(stream.qkv_BN3HK.shape[1] for stream in streams)
        *_, heads, head_dim = first.shape
        # Heads before tokens, which is how attention reads them.
        joined_3BHSK = first.new_empty(3, rows, heads, tokens, head_dim)
        before = 0
        for stream in streams:
            after = before + stream.qkv_BN3HK.shape[1]
            at = stream.rows or slice(0, rows)
            _heads_into(joined_3BHSK[:, at, :, before:after].transpose(2, 3), stream)
            before = after
        q_BSHK, k_BSHK, v_BSHK = joined_3BHSK.transpose(2, 3).unbind(0)
        return q_BSHK, k_BSHK, v_BSHK

    def shifted_norm(
        self, x_BND: Tensor, scale_B1D: Tensor, shift_B1D: Tensor, dtype: torch.dtype
    ) -> Tensor:
        out_BND = torch.empty_like(x_BND, dtype=dtype)
        for x_BnD, out_BnD in _slices(x_BND, out_BND):
            normed_BnD = F.layer_norm(x_BnD.float(), x_BnD.shape[-1:], eps=NORM_EPS)
            out_BnD.copy_(torch.addcmul(shift_B1D, normed_BnD, scale_B1D))
        return out_BND

    def silu_mul(self, ab_BNF: Tensor) -> Tensor:
        out_BNF = ab_BNF.new_empty(*ab_BNF.shape[:-1], ab_BNF.shape[-1] // 2)
        for ab_BnF, out_BnF in _slices(ab_BNF, out_BNF):
            a_BnF, b_BnF = ab_BnF.chunk(2, dim=-1)
            torch.mul(F.silu(a_BnF, inplace=True), b_BnF, out=out_BnF)
        return out_BNF


def _slices(first_BND: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same few tokens of every tensor, of all rows."""
    tensors = (first_BND, *others)
    tokens = first_BND.shape[1]
    step = _step(first_BND, first_BND.numel() // max(1, tokens))
    if step >= tokens:
        yield tensors
        return
    for start in range(0, tokens, step):
        yield tuple(x[:, start : start + step] for x in tensors)


def _step(x: Tensor, width: int) -> int:
    """Tokens of a slice, when one has `width` numbers."""
    numbers = _SLICE * torch.get_num_threads() if x.device.type == "cpu" else _DEVICE_SLICE
    return max(1, numbers // max(1, width))


def _add_gated(x_BnD: Tensor, y_BnD: Tensor, gate_B1D: Tensor) -> Tensor:
    """`x += y / rms(y) * gate`; returns the sum in float32."""
    normed_BnD = _normed(y_BnD, NORM_EPS)
    if x_BnD.dtype == torch.float32:
        return x_BnD.addcmul_(normed_BnD, gate_B1D)
    sum_BnD = torch.addcmul(x_BnD.float(), normed_BnD, gate_B1D)
    x_BnD.copy_(sum_BnD)
    return sum_BnD


def _normed_into(out_BnD: Tensor, x_BnD: Tensor, scale_B1D: Tensor) -> None:
    """`x / rms(x) * scale`."""
    if out_BnD.dtype == x_BnD.dtype == torch.float32:
        torch.mul(x_BnD, _inverse_rms(x_BnD, NORM_EPS), out=out_BnD).mul_(scale_B1D)
    else:
        out_BnD.copy_(_normed(x_BnD, NORM_EPS).mul_(scale_B1D))


def _normed(x: Tensor, eps: float) -> Tensor:
    """`x / rms(x)` over the last dimension, float32, in memory of its own."""
    exact = x.float()
    inverse = _inverse_rms(exact, eps)
    return exact * inverse if exact is x else exact.mul_(inverse)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """`1 / rms(x)` over the last dimension: one pass over x, where `F.rms_norm` takes four calls
    that each write as much as they read."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(_number(eps, x.device), length, length, value=1 / x.shape[-1]).rsqrt_()


@cache
def _number(value: float, device: torch.device) -> Tensor:
    """For operations that take a plain number in other places only; made once."""
    return torch.tensor(value, device=device)


def _heads_into(out_3BNHK: Tensor, stream: Heads) -> None:
    """Norm, rotate and lay down one stream's heads."""
    qkv_BN3HK = stream.qkv_BN3HK
    out_3BNHK[2].copy_(qkv_BN3HK[:, :, 2])
    tokens = qkv_BN3HK.shape[1]
    weight_2HK = torch.stack([stream.q_norm_K, stream.k_norm_K]).float().unsqueeze(1)
    step = _step(qkv_BN3HK, 2 * qkv_BN3HK.numel() // max(1, 3 * tokens))
    for start in range(0, tokens, step):
        part = slice(start, min(start + step, tokens))
        x_Bn2HK = _normed(qkv_BN3HK[:, part, :2], HEAD_EPS).mul_(weight_2HK)
        x_2BnHK, out_2BnHK = x_Bn2HK.permute(2, 0, 1, 3, 4), out_3BNHK[:2, :, part]
        if stream.rotary is None:
            out_2BnHK.copy_(x_2BnHK)
            continue
        turns_nHF = stream.rotary.factors(part.start, part.stop)
        if out_2BnHK.dtype == torch.float32:
            torch.mul(_pairs(x_2BnHK), turns_nHF, out=_pairs(out_2BnHK))
        else:
            _pairs(x_2BnHK).mul_(turns_nHF)
            out_2BnHK.copy_(x_2BnHK)


def _pairs(x: Tensor) -> Tensor:
    """Pairs of neighbours as complex numbers, in the same memory."""
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))
