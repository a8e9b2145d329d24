"""The plain elementwise pieces through torch.compile: each fused into one loop or kernel.

What is compiled are the regions between a block's layers, not the layers: there are five, and all
blocks share them, the last one too, whatever their linear layers are (adapted, quantised, passing
by). A region compiles when it is first met, which needs a C++ compiler on a CPU and takes 4 to 25 s
there; sizes are symbols, so that another size of video compiles nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from mochi.core.errors import RequestError
from mochi.model.kernels import QKV, Heads, PlainKernels, joined, plain_heads

Given = ParamSpec("Given")
Result = TypeVar("Result")


class CompiledKernels(PlainKernels):
    """`PlainKernels`, compiled piece by piece when first used."""

    name = "compiled"

    def __init__(self) -> None:
        plain = PlainKernels()
        self.modulated_norm = _compiled(plain.modulated_norm)  # type: ignore[method-assign]
        self.gated_residual = _compiled(plain.gated_residual)  # type: ignore[method-assign]
        self.residual_norm = _compiled(plain.residual_norm)  # type: ignore[method-assign]
        self.shifted_norm = _compiled(plain.shifted_norm)  # type: ignore[method-assign]
        self.silu_mul = _compiled(plain.silu_mul)  # type: ignore[method-assign]
        self._heads = _compiled(plain_heads)

    def join_heads(self, streams: Sequence[Heads], rows: int) -> QKV:
        done = []
        for stream in streams:
            turns = None if stream.rotary is None else stream.rotary.cos_sin
            weights = stream.q_norm_K, stream.k_norm_K
            done.append((self._heads(stream.qkv_BN3HK, *weights, turns), stream.rows))
        return joined(done, rows)


def _compiled(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Raises `RequestError` where the first call finds no compiler, or one that fails."""
    fast = torch.compile(function, dynamic=True)

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            return fast(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise RequestError(
                "kernels", "compiled", f"cannot be compiled here: {reason}", "auto"
            ) from error

    return call
