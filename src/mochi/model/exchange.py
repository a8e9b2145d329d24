"""The first of the three hooks: how tokens and frames reach a module that is only given a part.

On one device with the whole video both exchanges are trivial. When tokens are spread over devices,
or a video is decoded piece by piece, another object with the same methods is handed in, and the
networks stay as they are.
"""

# Shapes: B batch, S any number of tokens, N visual tokens, L text tokens, H heads, K head_dim,
#         P pixels, T frames, C channels. A lower-case letter is this device's share.

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.model.kernels import QKV

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Softmax attention without a mask: q, k, v of `(B, S, H, K)` to an output like q."""


def attend(q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
    """PyTorch's scaled-dot-product attention, scale `K ** -0.5`."""
    out_BHSK = F.scaled_dot_product_attention(
        q_BSHK.transpose(1, 2), k_BSHK.transpose(1, 2), v_BSHK.transpose(1, 2)
    )
    return out_BHSK.transpose(1, 2)


def attend_by_matmul(q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
    """The same by its definition. Faster to train on a CPU where sequences are short: the fused
    kernel's backward pass took three times as long at 100 tokens in bfloat16."""
    q_BHSK, k_BHSK, v_BHSK = (x.transpose(1, 2) for x in (q_BSHK, k_BSHK, v_BSHK))
    scores_BHSS = (q_BHSK * q_BHSK.shape[-1] ** -0.5) @ k_BHSK.transpose(-1, -2)
    return (scores_BHSS.softmax(dim=-1) @ v_BHSK).transpose(1, 2)


class TokenExchange(Protocol):
    """Moves visual tokens and attention heads between the devices that share one video.

    Between blocks every device holds its own visual tokens and all text tokens; inside attention
    it holds all tokens of its own heads.
    """

    def split_tokens(self, x_BNC: Tensor) -> Tensor:
        """All visual tokens to this device's; also used on the rotary factors."""
        ...

    def gather_tokens(self, x_BnC: Tensor) -> Tensor:
        """This device's visual tokens to all of them, in order."""
        ...

    def token_parts(self, tokens: int) -> list[slice]:
        """The parts of my tokens, of which one may travel while another is computed; often one."""
        ...

    def tokens_to_heads(self, parts: Iterable[QKV]) -> QKV:
        """My tokens of all heads, in these parts, to all tokens of my heads."""
        ...

    def heads_to_tokens(self, out_BNhK: Tensor) -> Iterable[Tensor]:
        """All tokens of my heads to my tokens of all heads, in these parts."""
        ...

    def text_heads(self, y_BLHK: Tensor) -> Tensor:
        """My heads of the text, which every device holds whole."""
        ...

    def gather_text_heads(self, out_BLhK: Tensor) -> Tensor:
        """All heads of the text, from every device's own."""
        ...


class OneDevice:
    """The `TokenExchange` of a single device: everything is already here."""

    def split_tokens(self, x_BNC: Tensor) -> Tensor:
        return x_BNC

    def gather_tokens(self, x_BnC: Tensor) -> Tensor:
        return x_BnC

    def token_parts(self, tokens: int) -> list[slice]:
        return [slice(0, tokens)]

    def tokens_to_heads(self, parts: Iterable[QKV]) -> QKV:
        (whole,) = parts
        return whole

    def heads_to_tokens(self, out_BNhK: Tensor) -> Iterable[Tensor]:
        return (out_BNhK,)

    def text_heads(self, y_BLHK: Tensor) -> Tensor:
        return y_BLHK

    def gather_text_heads(self, out_BLhK: Tensor) -> Tensor:
        return out_BLhK


class FrameExchange(Protocol):
    """Brings a causal layer what came before the frames it is given.

    `layer` tells the calls of different layers apart.
    """

    @property
    def at_start(self) -> bool:
        """Whether the frames at hand begin with the video's first."""
        ...

    def frames_before(self, layer: nn.Module, x_BCTHW: Tensor, count: int) -> Tensor:
        """The `count` frames before `x` at this layer: the video's first, repeated, at its
        start, and otherwise the last of what this layer saw before."""
        ...

    def keys_values(
        self, layer: nn.Module, k_PHTK: Tensor, v_PHTK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of all frames so far, those at hand last."""
        ...


class WholeVideo:
    """The `FrameExchange` of a video that is processed in one piece."""

    at_start = True

    def frames_before(self, layer: nn.Module, x_BCTHW: Tensor, count: int) -> Tensor:
        return x_BCTHW[:, :, :1].expand(-1, -1, count, -1, -1)

    def keys_values(
        self, layer: nn.Module, k_PHTK: Tensor, v_PHTK: Tensor
    ) -> tuple[Tensor, Tensor]:
        return k_PHTK, v_PHTK


class FrameStream:
    """The `FrameExchange` of a video that arrives in chunks, in order, on one device.

    Convolutions are causal and norms work on single frames, so the last two input frames of each
    convolution are all that the next chunk needs: the streamed result is the one-shot result.
    Call `advance` after each chunk.

    Args:
        keep_on: the device where frames wait for the next chunk; by default where they are. What
            is moved there and back is the same, so is the result.
    """

    def __init__(self, keep_on: torch.device | None = None) -> None:
        self.at_start = True
        self._keep_on = keep_on
        self._frames: dict[nn.Module, Tensor] = {}
        self._keys_values: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def advance(self) -> None:
        """The chunk went through every layer; the next one follows it."""
        self.at_start = False

    def frames_before(self, layer: nn.Module, x_BCTHW: Tensor, count: int) -> Tensor:
        place = self._keep_on or x_BCTHW.device
        kept = self._frames.get(layer)
        if kept is None:
            before = x_BCTHW[:, :, :1].expand(-1, -1, count, -1, -1)
            kept = self._frames[layer] = _room(x_BCTHW, count, place)
        elif kept.device == x_BCTHW.device:
            before = kept.clone()
        else:
            before = kept.to(x_BCTHW.device, non_blocking=True)
        seen = x_BCTHW if x_BCTHW.shape[2] >= count else torch.cat([before, x_BCTHW], dim=2)
        # In place: what lives long never moves, so the C library's heap stays whole around it.
        kept.copy_(seen[:, :, -count:], non_blocking=kept.is_pinned())
        return before

    def keys_values(
        self, layer: nn.Module, k_PHTK: Tensor, v_PHTK: Tensor
    ) -> tuple[Tensor, Tensor]:
        if layer in self._keys_values:
            k_before, v_before = self._keys_values[layer]
            k_PHTK = torch.cat([k_before, k_PHTK], dim=2)
            v_PHTK = torch.cat([v_before, v_PHTK], dim=2)
        self._keys_values[layer] = k_PHTK, v_PHTK
        return k_PHTK, v_PHTK


def _room(x_BCTHW: Tensor, count: int, device: torch.device) -> Tensor:
    """Memory for `count` such frames, channels last. Between a GPU and the CPU's memory copies are
    queued with the GPU's other work, which is the only one that reads them again."""
    pinned = device.type == "cpu" and x_BCTHW.is_cuda
    batch, channels, _, height, width = x_BCTHW.shape
    shape = batch, count, height, width, channels
    room = torch.empty(shape, dtype=x_BCTHW.dtype, device=device, pin_memory=pinned)
    return room.permute(0, 4, 1, 2, 3)
