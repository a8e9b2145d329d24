"""Attention over a part of the keys, in a form that can be put together with other parts."""

# Shapes: B batch, S queries, M keys, H heads, K head_dim.

from __future__ import annotations

import torch
from torch import Tensor

Parts = tuple[Tensor, Tensor]
"""Output `(B, S, H, K)` in float32 (float64 stays) and the log of the sum of exponentials
`(B, S, H, 1)`, of the keys seen so far."""

_aten = torch.ops.aten


def attend_part(q_BSHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor) -> Parts:
    """Softmax attention over these keys alone, scale `K ** -0.5`."""
    q, k, v = (x.transpose(1, 2) for x in (q_BSHK, k_BMHK, v_BMHK))
    if q.device.type == "cuda":
        out, lse = _aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    elif q.device.type == "cpu":
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    else:
        scores = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-1, -2)
        lse = scores.logsumexp(dim=-1)
        out = (scores - lse.unsqueeze(-1)).exp() @ v.float()
    wide = torch.promote_types(out.dtype, torch.float32)
    return out.transpose(1, 2).to(wide), lse[..., : q.shape[2]].transpose(1, 2).unsqueeze(-1)


def merge(a: Parts, b: Parts) -> Parts:
    """The attention over the keys of both parts."""
    lse = torch.logaddexp(a[1], b[1])
    out = a[0] * (a[1] - lse).exp() + b[0] * (b[1] - lse).exp()
    return out, lse


def part_gradients(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What these keys give to the gradients of q, and the gradients of k and v.

    `out` and `lse` are those over all keys, so every probability comes out as it was. Query blocks
    keep the scores small. Computed in float32, or float64 if the inputs are.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    q_w, k_w, v_w, out_w, g_w = (x.transpose(1, 2).to(wide) for x in (q, k, v, out, gradient))
    lse_w, scale = lse.transpose(1, 2).to(wide), q.shape[-1] ** -0.5
    dk, dv, dq = torch.zeros_like(k_w), torch.zeros_like(v_w), []
    block = 256
    for start in range(0, q_w.shape[2], block):
        rows = slice(start, start + block)
        q_b, g_b = q_w[:, :, rows], g_w[:, :, rows]
        p = (q_b @ k_w.transpose(-1, -2) * scale - lse_w[:, :, rows]).exp()
        dv += p.transpose(-1, -2) @ g_b
        held = (g_b * out_w[:, :, rows]).sum(dim=-1, keepdim=True)
        ds = p * (g_b @ v_w.transpose(-1, -2) - held) * scale
        dq.append(ds @ k_w)
        dk += ds.transpose(-1, -2) @ q_b
    parts = torch.cat(dq, dim=2), dk, dv
    dq_, dk_, dv_ = (x.transpose(1, 2) for x in parts)
    return dq_, dk_, dv_
