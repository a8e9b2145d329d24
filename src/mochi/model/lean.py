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
        for x_nD, scale_D, out_nD in _slices(x_BND, scale_B1D, out_BND):
            _normed_into(out_nD, x_nD.to(torch.float32, copy=True), scale_D)
        return out_BND

    def gated_residual(self, x_BND: Tensor, y_BND: Tensor, gate_B1D: Tensor) -> Tensor:
        for x_nD, y_nD, gate_D in _slices(x_BND, y_BND, gate_B1D):
            x_nD.copy_(_gated(x_nD, y_nD, gate_D))
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
        for x_nD, y_nD, out_nD, gate_D, scale_D in _slices(
            x_BND, y_BND, out_BND, gate_B1D, scale_B1D
        ):
            sum_nD = _gated(x_nD, y_nD, gate_D)
            x_nD.copy_(sum_nD)
            _normed_into(out_nD, sum_nD, scale_D)
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
        for x_nD, scale_D, shift_D, out_nD in _slices(x_BND, scale_B1D, shift_B1D, out_BND):
            normed_nD = F.layer_norm(x_nD.float(), x_nD.shape[-1:], eps=NORM_EPS)
            out_nD.copy_(torch.addcmul(shift_D, normed_nD, scale_D))
        return out_BND

    def silu_mul(self, ab_BNF: Tensor) -> Tensor:
        out_BNF = ab_BNF.new_empty(*ab_BNF.shape[:-1], ab_BNF.shape[-1] // 2)
        for ab_nF, out_nF in _slices(ab_BNF, out_BNF):
            a_nF, b_nF = ab_nF.chunk(2, dim=-1)
            torch.mul(F.silu(a_nF), b_nF, out=out_nF)
        return out_BNF


def _slices(first_BND: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows and a few tokens of every tensor; factors `(B, 1, D)` go along whole."""
    tokens, width = first_BND.shape[1:]
    step = _step(first_BND, width)
    for row in range(first_BND.shape[0]):
        whole = [tensor[row] for tensor in (first_BND, *others)]
        for start in range(0, tokens, step):
            yield tuple(
                tensor if tensor.shape[0] == 1 else tensor[start : start + step] for tensor in whole
            )


def _step(x: Tensor, width: int) -> int:
    """Tokens of a slice."""
    numbers = _SLICE * torch.get_num_threads() if x.device.type == "cpu" else _DEVICE_SLICE
    return max(1, numbers // width)


def _gated(x_nD: Tensor, y_nD: Tensor, gate_D: Tensor) -> Tensor:
    """`x + y / rms(y) * gate`, float32, in memory of its own."""
    y_nD = y_nD.to(torch.float32, copy=True)
    y_nD.mul_(_inverse_rms(y_nD, NORM_EPS))
    return torch.addcmul(x_nD.float(), y_nD, gate_D)


def _normed_into(out_nD: Tensor, x_nD: Tensor, scale_D: Tensor) -> None:
    """`x / rms(x) * scale`; overwrites x, which is float32."""
    out_nD.copy_(x_nD.mul_(_inverse_rms(x_nD, NORM_EPS)).mul_(scale_D))


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """`1 / sqrt(mean(x^2) + eps)` over the last dimension, kept."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _heads_into(out_3BNHK: Tensor, stream: Heads) -> None:
    """Norm, rotate and lay down one stream's heads."""
    qkv_BN3HK = stream.qkv_BN3HK
    out_3BNHK[2].copy_(qkv_BN3HK[:, :, 2])
    tokens, width = qkv_BN3HK.shape[1], 2 * qkv_BN3HK[0, 0, 0].numel()
    weight_2HK = torch.stack([stream.q_norm_K, stream.k_norm_K]).float().unsqueeze(1)
    step = _step(qkv_BN3HK, width)
    for start in range(0, tokens, step):
        part = slice(start, min(start + step, tokens))
        factors_n1HF = None
        if stream.rotary is not None:
            factors_n1HF = stream.rotary.factors(part.start, part.stop).unsqueeze(1)
        for row in range(qkv_BN3HK.shape[0]):
            x_n2HK = qkv_BN3HK[row, part, :2].to(torch.float32, copy=True)
            x_n2HK.mul_(_inverse_rms(x_n2HK, HEAD_EPS)).mul_(weight_2HK)
            if factors_n1HF is not None:
                torch.view_as_complex(x_n2HK.unflatten(-1, (-1, 2))).mul_(factors_n1HF)
            out_3BNHK[:2, row, part].copy_(x_n2HK.transpose(0, 1))
