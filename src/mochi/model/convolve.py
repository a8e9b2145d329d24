"""Norm, SiLU and causal convolution without gradients: three ways, one result within rounding.

`plain` does one operation after the other, as SPEC 4 writes them; it carries gradients, and so it
is what training runs. `direct` writes norm and SiLU straight into the padded input of the
convolution: two copies less. `winograd` does that too, and then multiplies by Winograd's F(2, 3)
along rows: two neighbouring rows of the result from four products in place of six. On CPUs
convolutions run at the processor's peak, so only fewer multiplications make them faster.

F(2, 3), for input rows d0 to d3, kernel rows g0 to g2 and result rows y0, y1:

    m0 = (d0 - d2) g0                      y0 = m0 + m1 + m2
    m1 = (d1 + d2) (g0 + g1 + g2) / 2      y1 = m1 - m2 - m3
    m2 = (d2 - d1) (g0 - g1 + g2) / 2
    m3 = (d1 - d3) g2

where each product is a convolution over the frames, columns and channels that are left. Frames do
not mix, so a stream of frames gives what the whole video gives. In float32 a whole decode moves by
1e-6. In bfloat16, sums and the insides of norms stay in float32 until a convolution reads them,
which gives back what rounding the products costs: the error of a whole decode is 1.0 to 1.14 times
that of one operation after the other (weights of nano: 1.0; random ones of full width: the rest).
"""

# Shapes: B batch, C channels (O of the result), T frames, H W pixels; P padded by two frames in
#         front and one pixel on each side.

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from mochi.model.causal import FrameNorm
    from mochi.model.exchange import FrameExchange

Method = Literal["auto", "plain", "direct", "winograd"]
METHODS: tuple[Method, ...] = ("auto", "plain", "direct", "winograd")

_LAST = torch.channels_last_3d

_CHUNK_VALUES = 2**21
"""Norm and SiLU go over so many values at a time: what is between them stays in the cache."""

_BAND_VALUES = 2**22
"""Padded values that Winograd's products work on at one time (one core of an EPYC, 848x480x2 in
bfloat16, 2026-11-22: 16 rows at a time 1.4 times as fast as all 480)."""

_LEAST_CHANNELS, _LEAST_PIXELS = 128, 1024
"""Below, what Winograd adds around the products outweighs what they save."""


def choose(method: Method, conv: nn.Conv3d, x_BCTHW: Tensor) -> Method:
    """`direct` or `winograd` for this input: what `auto` stands for, and where Winograd cannot."""
    if x_BCTHW.shape[3] % 2 or method == "direct":
        return "direct"
    if method == "winograd":
        return "winograd"
    pays = conv.in_channels >= _LEAST_CHANNELS and x_BCTHW[0, 0].numel() >= _LEAST_PIXELS
    return "winograd" if pays and winograd_device(x_BCTHW.device, x_BCTHW.dtype) else "direct"


def winograd_device(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether convolutions wait for multiplications there: on CPUs without matrix units."""
    return on_cpu(device) and (dtype == torch.float32 or not torch.cpu._is_amx_tile_supported())


def on_cpu(device: torch.device) -> bool:
    """Whether the CPU computes; tensors without contents stand for its."""
    return device.type in ("cpu", "meta")


def padded_input(
    norm: FrameNorm, conv: nn.Conv3d, x_BCTHW: Tensor, frames: FrameExchange
) -> Tensor:
    """What the convolution reads: `silu(norm(x))` behind the frames before it, edges repeated."""
    batch, channels, time, height, width = x_BCTHW.shape
    before = conv.kernel_size[0] - 1
    padded = x_BCTHW.new_empty(batch, before + time, height + 2, width + 2, channels)
    padded_BCPPP = padded.permute(0, 4, 1, 2, 3)
    inner = padded_BCPPP[:, :, :, 1:-1, 1:-1]
    now = inner[:, :, before:]
    _activate(norm, x_BCTHW, now)
    inner[:, :, :before] = frames.frames_before(conv, now, before)
    for edge, beside in ((0, 1), (-1, -2)):
        padded_BCPPP[:, :, :, edge] = padded_BCPPP[:, :, :, beside]
        padded_BCPPP[..., edge] = padded_BCPPP[..., beside]
    return padded_BCPPP


def _activate(norm: FrameNorm, x_BCTHW: Tensor, out_BCTHW: Tensor) -> None:
    """`out = silu(norm(x))`; rounded once on a CPU, where float32 between the two is free."""
    precise = x_BCTHW.dtype != torch.float32 and on_cpu(x_BCTHW.device)
    for some in _slices(x_BCTHW.shape[2], x_BCTHW, _CHUNK_VALUES):
        x, out = x_BCTHW[:, :, some], out_BCTHW[:, :, some]
        if not precise:
            torch.ops.aten.silu.out(norm(x), out=out)
            continue
        factors = norm.factors(x)
        for rows in _slices(x.shape[3], x, _CHUNK_VALUES):
            out[:, :, :, rows] = _silu_of_scaled(x[:, :, :, rows].float(), *factors)


def _silu_of_scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Overwrites x."""
    return F.silu(torch.addcmul(shift, x, scale, out=x), inplace=True)


def convolved(
    method: Method, conv: nn.Conv3d, padded_BCPPP: Tensor, plus_BOTHW: Tensor | None = None
) -> Tensor:
    """The convolution of a padded input, `(B, O, T, H, W)`, plus another tensor, if there is one;
    in memory of its own."""
    if method == "winograd":
        return winograd_rows(padded_BCPPP, conv.weight, conv.bias, plus_BOTHW)
    out_BOTHW = _conv3d(padded_BCPPP, conv.weight, conv.bias)
    return out_BOTHW if plus_BOTHW is None else out_BOTHW.add_(plus_BOTHW)


def winograd_rows(
    padded_BCPPP: Tensor, weight: Tensor, bias: Tensor | None, plus_BOTHW: Tensor | None = None
) -> Tensor:
    """A 3x3x3 convolution by F(2, 3) along rows; an even number of rows comes out.

    Args:
        padded_BCPPP: `(B, C, T + 2, H + 2, W + 2)`.
        weight: `(O, C, 3, 3, 3)`.
        bias: `(O,)`, or None.
        plus_BOTHW: added to the result before it is rounded, or None.
    """
    batch, _, time, height, width = padded_BCPPP.shape
    height -= 2
    out = padded_BCPPP.new_empty(batch, time - 2, height, width - 2, weight.shape[0])
    out_BOTHW = out.permute(0, 4, 1, 2, 3)
    kernels = row_kernels(weight)
    for band in _slices(height, padded_BCPPP, _BAND_VALUES, 2):
        rows = padded_BCPPP[:, :, :, band.start : band.stop + 2]
        pair = _two_rows_each(rows, kernels, bias)
        for first, found in enumerate(pair):
            place = slice(band.start + first, band.stop, 2)
            if plus_BOTHW is not None:
                found.add_(plus_BOTHW[:, :, :, place])
            out_BOTHW[:, :, :, place] = found
    return out_BOTHW


def _two_rows_each(
    rows_BCPPP: Tensor, kernels: list[Tensor], bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Even and odd rows of the result, float32: sums of rounded products are not rounded again."""
    last = rows_BCPPP.shape[3] - 3
    d0, d1, d2, d3 = (rows_BCPPP[:, :, :, first : first + last + 1 : 2] for first in range(4))
    m1 = _conv3d(d1 + d2, kernels[1], bias).float()  # is in both rows, so the bias is too
    m2 = _conv3d(d2 - d1, kernels[2]).float()
    even = m1 + m2
    odd = m1.sub_(m2)
    del m2
    even.add_(_conv3d(d0 - d2, kernels[0]))
    odd.sub_(_conv3d(d1 - d3, kernels[3]))
    return even, odd


def _conv3d(x_BCTHW: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Without padding; what comes out is channels last, as what goes in.

    The stand-in for tensors without contents forgets that, and the copies that follow would count.
    """
    if x_BCTHW.dtype == torch.float32 and x_BCTHW.is_cpu and torch.backends.mkldnn.is_available():
        # F.conv3d hands small inputs, such as nano's first stage, to a kernel 1.5 times as slow.
        return torch.mkldnn_convolution(x_BCTHW, weight, bias, (0,) * 3, (1,) * 3, (1,) * 3, 1)
    if not x_BCTHW.is_meta:
        return F.conv3d(x_BCTHW, weight, bias)
    sizes = [1 + x_BCTHW.shape[place] - weight.shape[place] for place in (2, 3, 4)]
    return x_BCTHW.new_empty(len(x_BCTHW), *sizes, len(weight)).permute(0, 4, 1, 2, 3)


def row_kernels(weight: Tensor) -> list[Tensor]:
    """Kernels of the four products, `(O, C, 3, 1, 3)` each; summed in float32, then rounded.

    Made for each use: kept, they would be four thirds of the network once more.
    """
    kernels = [torch.empty_like(weight[:, :, :, :1], memory_format=_LAST) for _ in range(4)]
    for part in _slices(weight.shape[0], weight, _CHUNK_VALUES):
        g0, g1, g2 = (weight[part, :, :, row : row + 1].float() for row in range(3))
        outer = g0 + g2
        sums = (g0, (outer + g1).mul_(0.5), outer.sub_(g1).mul_(0.5), g2)
        for kernel, g in zip(kernels, sums, strict=True):
            kernel[part] = g
    return kernels


def _slices(length: int, whole: Tensor, values: int, multiple: int = 1) -> Iterator[slice]:
    """`length` in slices that make parts of about `values` numbers of the whole. Where nothing but
    sizes is computed, the first stands for all."""
    step = max(multiple, values * length // whole.numel() // multiple * multiple)
    for start in range(0, step if whole.is_meta else length, step):
        yield slice(start, min(length, start + step))
