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

_FEW = 2**16
"""Numbers up to which calls cost more than work: there one call of several passes is faster."""


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
            x_BnD.copy_(_gated(x_BnD, y_BnD, gate_B1D))
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
            sum_BnD = _gated(x_BnD, y_BnD, gate_B1D)
            x_BnD.copy_(sum_BnD)
            _normed_into(out_BnD, sum_BnD, scale_B1D)
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
            torch.mul(F.silu(a_BnF), b_BnF, out=out_BnF)
        return out_BNF


def _slices(first_BND: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same few tokens of every tensor, of all rows."""
    tensors = (first_BND, *others)
    tokens = first_BND.shape[1]
    step = _step(first_BND, first_BND[:, 0].numel())
    if step >= tokens:
        yield tensors
        return
    for start in range(0, tokens, step):
        yield tuple(x[:, start : start + step] for x in tensors)


def _step(x: Tensor, width: int) -> int:
    """Tokens of a slice, when one has `width` numbers."""
    numbers = _SLICE * torch.get_num_threads() if x.device.type == "cpu" else _DEVICE_SLICE
    return max(1, numbers // width)


def _gated(x_BnD: Tensor, y_BnD: Tensor, gate_B1D: Tensor) -> Tensor:
    """`x + y / rms(y) * gate`, float32, in memory of its own."""
    return torch.addcmul(x_BnD.float(), _normed(y_BnD, NORM_EPS), gate_B1D)


def _normed_into(out_BnD: Tensor, x_BnD: Tensor, scale_B1D: Tensor) -> None:
    """`x / rms(x) * scale`."""
    normed_BnD = _normed(x_BnD, NORM_EPS)
    if out_BnD.dtype == torch.float32:
        torch.mul(normed_BnD, scale_B1D, out=out_BnD)
    else:
        out_BnD.copy_(normed_BnD.mul_(scale_B1D))


def _normed(x: Tensor, eps: float) -> Tensor:
    """`x / rms(x)` over the last dimension, float32, in memory of its own."""
    if x.numel() <= _FEW:
        return F.rms_norm(x.float(), x.shape[-1:], eps=eps)
    x = x.to(torch.float32, copy=True)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x.mul_(length.square_().div_(x.shape[-1]).add_(eps).rsqrt_())


def _heads_into(out_3BNHK: Tensor, stream: Heads) -> None:
    """Norm, rotate and lay down one stream's heads."""
    qkv_BN3HK = stream.qkv_BN3HK
    out_3BNHK[2].copy_(qkv_BN3HK[:, :, 2])
    tokens, numbers = qkv_BN3HK.shape[1], qkv_BN3HK[:, 0, :2].numel()
    weight_2HK = torch.stack([stream.q_norm_K, stream.k_norm_K]).float().unsqueeze(1)
    step = _step(qkv_BN3HK, numbers)
    for start in range(0, tokens, step):
        part = slice(start, min(start + step, tokens))
        x_Bn2HK = _normed(qkv_BN3HK[:, part, :2], HEAD_EPS).mul_(weight_2HK)
        if stream.rotary is not None:
            turns_n1HF = stream.rotary.factors(part.start, part.stop).unsqueeze(1)
            torch.view_as_complex(x_Bn2HK.unflatten(-1, (-1, 2))).mul_(turns_n1HF)
        out_3BNHK[:2, :, part].copy_(x_Bn2HK.permute(2, 0, 1, 3, 4))
