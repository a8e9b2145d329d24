"""Kernels for one softmax attention over all tokens, without a mask, and the choice between them.

All compute the same within rounding; which is fastest depends on device, dtype and number of
tokens. `ChosenAttention` is told a name, or finds out: it times the candidates once for each class
of shapes, keeps the fastest, and says which that is.
"""

# Shapes: B batch, S tokens, H heads, K head_dim, n queries of a chunk.

from __future__ import annotations

import importlib
import importlib.util
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import attention as torch_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from mochi.core.errors import RequestError
from mochi.core.speed import ATTENTION_NAMES, check_word
from mochi.model.exchange import Attention, attend

Announce = Callable[[str], None]

log = logging.getLogger(__name__)

_CHUNK, _LEAST_CHUNK, _SCORES = 256, 64, 2**21
"""Queries at a time, and how many scores they may have together: those stay in the cache."""

_CHUNKED_FROM = 256
"""Tokens from which chunks can pay."""

_CLEARLY = {"cpu": 1.2, "cuda": 1.05}
"""So many times faster than the first candidate another must be to be taken: a choice that noise
cannot turn around gives the same bits in every run."""

_SAMPLE_QUERIES, _SAMPLE_HEADS, _ROUNDS = 512, 2, 2


def attend_in_chunks(q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
    """By matrix products, some hundred queries at a time; for bfloat16 on CPUs without AMX.

    PyTorch's kernel turns bfloat16 into float32 there and runs at its speed; the products
    of the CPU's bfloat16 instructions are two to five times as fast. Sums are float32 inside each
    product, scores are rounded to the inputs' dtype, their softmax is float32 inside.
    """
    batch, tokens, heads, head_dim = q_BSHK.shape
    out_BSHK = torch.empty(q_BSHK.shape, dtype=v_BSHK.dtype, device=v_BSHK.device)
    length = k_BSHK.shape[1]
    step = min(_CHUNK, max(_LEAST_CHUNK, _SCORES // length))
    scores_nS = q_BSHK.new_empty(step, length)
    for row in range(batch):
        for head in range(heads):
            k_KS, v_SK = k_BSHK[row, :, head].t(), v_BSHK[row, :, head]
            for start in range(0, tokens, step):
                q_nK = q_BSHK[row, start : start + step, head]
                s_nS = scores_nS[: q_nK.shape[0]]
                torch.addmm(s_nS, q_nK, k_KS, beta=0, alpha=head_dim**-0.5, out=s_nS)
                torch.softmax(s_nS, dim=-1, out=s_nS)
                torch.mm(s_nS, v_SK, out=out_BSHK[row, start : start + step, head])
    return out_BSHK


def _backend(backend: SDPBackend) -> Attention:
    """One of PyTorch's own CUDA kernels; a RuntimeError where it does not run."""

    def run(q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
        with sdpa_kernel([backend]):
            return attend(q_BSHK, k_BSHK, v_BSHK)

    return run


def _flash(implementation: str | None) -> Attention:
    """Flash attention of one generation; None is the one inside PyTorch.

    PyTorch holds one implementation for the whole process, so it is set before each call; that
    costs something only when it changes.
    """
    run = _backend(SDPBackend.FLASH_ATTENTION)

    def attention(q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
        if _flash_in_use() != implementation:
            if implementation is None:
                torch_attention.restore_flash_attention_impl()
            else:
                torch_attention.activate_flash_attention_impl(implementation)
        return run(q_BSHK, k_BSHK, v_BSHK)

    return attention


def _sage(q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
    """SageAttention: products in 8 bits. Lossy, so only when it is asked for by name."""
    sageattn: Callable[..., Tensor] = importlib.import_module("sageattention").sageattn
    return sageattn(q_BSHK, k_BSHK, v_BSHK, tensor_layout="NHD")


def _flash_in_use() -> str | None:
    in_use = getattr(torch_attention, "current_flash_attention_impl", None)
    return None if in_use is None else in_use()


@dataclass(frozen=True)
class Kernel:
    """One way to attend.

    Attributes:
        run: the way.
        devices: kinds of device that have it; empty for all.
        module: the package it needs beside PyTorch.
    """

    run: Attention
    devices: tuple[str, ...] = ()
    module: str | None = None

    def is_here(self, device: str) -> bool:
        """Whether this kind of device and these packages have it."""
        if self.devices and device not in self.devices:
            return False
        return self.module is None or _is_installed(self.module)


KERNELS: Mapping[str, Kernel] = {
    "sdpa": Kernel(attend),
    "chunked": Kernel(attend_in_chunks),
    "cudnn": Kernel(_backend(SDPBackend.CUDNN_ATTENTION), ("cuda",)),
    "flash": Kernel(_flash(None), ("cuda",)),
    "flash3": Kernel(_flash("FA3"), ("cuda",), "flash_attn_interface"),
    "flash4": Kernel(_flash("FA4"), ("cuda",), "flash_attn"),
    "efficient": Kernel(_backend(SDPBackend.EFFICIENT_ATTENTION), ("cuda",)),
    "sage": Kernel(_sage, ("cuda",), "sageattention"),
}


def candidates(q_BSHK: Tensor) -> list[str]:
    """What is worth timing for such queries; the first is what stays unless another is clearly
    faster."""
    device = q_BSHK.device.type
    if device == "cuda":
        return [
            name
            for name in ("cudnn", "flash", "efficient", "flash3", "flash4")
            if KERNELS[name].is_here(device)
        ]
    if device == "cpu" and q_BSHK.dtype == torch.bfloat16 and q_BSHK.shape[1] >= _CHUNKED_FROM:
        return ["sdpa", "chunked"]
    return ["sdpa"]


class ChosenAttention:
    """The attention kernel of a network: one by name, or the fastest of each class of shapes.

    A class is a device, a dtype, a head size and a number of tokens up to a power of two. Where
    gradients are recorded it is PyTorch's own choice.

    Attributes:
        name: `auto`, or what always runs.
        chosen: the kernel of each class met so far.
        seconds: what the candidates of each class took, in the sample that was timed.
    """

    def __init__(self, name: str = "auto", announce: Announce = log.info):
        check_word("attention", name, ATTENTION_NAMES)
        self.name = name
        self.chosen: dict[tuple[object, ...], str] = {}
        self.seconds: dict[tuple[object, ...], dict[str, float]] = {}
        self.announce_to(announce)

    def announce_to(self, announce: Announce) -> None:
        """Tell this listener from now on, each thing once."""
        self._announce = announce
        self._said: set[str] = set()

    def __call__(self, q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Tensor:
        if torch.is_grad_enabled() or q_BSHK.is_meta:
            return attend(q_BSHK, k_BSHK, v_BSHK)
        if self.name != "auto":
            return self._named(q_BSHK, k_BSHK, v_BSHK)
        kind = _kind(q_BSHK)
        if kind not in self.chosen:
            self.chosen[kind] = self._fastest(kind, q_BSHK, k_BSHK, v_BSHK)
        name = self.chosen[kind]
        if name not in self._said:
            self._say(name, self._reason(kind, q_BSHK))
        return KERNELS[name].run(q_BSHK, k_BSHK, v_BSHK)

    def _named(self, *qkv: Tensor) -> Tensor:
        self._say(self.name, "as asked for")
        try:
            return KERNELS[self.name].run(*qkv)
        except Exception as error:
            if _is_about_memory(self.name, error):
                raise
            raise RequestError(
                "attention", self.name, f"does not run here: {_first_line(error)}", "auto"
            ) from error

    def _fastest(self, kind: tuple[object, ...], *qkv: Tensor) -> str:
        names = candidates(qkv[0])
        if len(names) == 1:
            return names[0]
        sample = _sample(*qkv)
        seconds = {name: took for name in names if (took := _seconds(name, sample)) is not None}
        self.seconds[kind] = seconds
        if not seconds:
            return "sdpa"
        first = next(iter(seconds))
        best = min(seconds, key=seconds.__getitem__)
        margin = _CLEARLY.get(qkv[0].device.type, 1.0)
        return best if seconds[best] * margin < seconds[first] else first

    def _reason(self, kind: tuple[object, ...], q_BSHK: Tensor) -> str:
        dtype = str(q_BSHK.dtype).removeprefix("torch.")
        where = f"{q_BSHK.shape[1]:,} tokens, {dtype}, {q_BSHK.device.type}"
        seconds = self.seconds.get(kind, {})
        mine = seconds.get(self.chosen[kind])
        others = [
            f"{took / mine:.2f} times as fast as {name}"
            for name, took in seconds.items()
            if mine and name != self.chosen[kind]
        ]
        return f"{where}; measured: {', '.join(others)}" if others else where

    def _say(self, name: str, why: str) -> None:
        if name not in self._said:
            self._said.add(name)
            self._announce(f"attention: {name} ({why})")


def _kind(q_BSHK: Tensor) -> tuple[object, ...]:
    _, tokens, _, head_dim = q_BSHK.shape
    return q_BSHK.device, q_BSHK.dtype, head_dim, tokens.bit_length()


def _sample(q_BSHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> Sequence[Tensor]:
    """What is timed: on a CPU some queries of some heads, but all their keys."""
    if q_BSHK.device.type != "cpu":
        return q_BSHK, k_BSHK, v_BSHK
    some = slice(_SAMPLE_HEADS)
    q_BSHK = q_BSHK[:1, :_SAMPLE_QUERIES, some]
    return q_BSHK, k_BSHK[:1, :, some], v_BSHK[:1, :, some]


def _seconds(name: str, qkv: Sequence[Tensor]) -> float | None:
    """The least of some runs after a first; None where the kernel does not run."""
    best = float("inf")
    try:
        for turn in range(_ROUNDS + 1):
            began = time.perf_counter()
            KERNELS[name].run(*qkv)
            if qkv[0].is_cuda:
                torch.cuda.synchronize(qkv[0].device)
            if turn:
                best = min(best, time.perf_counter() - began)
    except Exception as error:
        if _is_about_memory(name, error):
            raise
        log.debug("attention %s does not run here: %s", name, error)
        return None
    return best


def _is_about_memory(name: str, error: Exception) -> bool:
    """Whether another kernel would not help. Kernels of one kind of device may fail in any way that
    their packages think of; those of all devices only for want of memory, whatever it is called."""
    return isinstance(error, torch.OutOfMemoryError) or not KERNELS[name].devices


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0] or type(error).__name__
