"""The elementwise pieces by name, and the fastest exact ones of each device."""

from __future__ import annotations

import importlib.util

import torch

from mochi.core.errors import RequestError
from mochi.core.speed import KERNEL_NAMES, check_word
from mochi.model.kernels import Kernels, PlainKernels
from mochi.model.lean import LeanKernels


def make_kernels(name: str = "auto") -> Kernels:
    """The kernels of this name.

    Raises:
        RequestError: there are none, or they need a package that is not here.
    """
    check_word("kernels", name, KERNEL_NAMES)
    if name == "auto":
        return DeviceKernels()
    if name == "triton":
        return _triton()
    if name == "compiled":
        from mochi.model.compiled import CompiledKernels  # imports torch._dynamo, a second

        return CompiledKernels()
    return PlainKernels() if name == "plain" else LeanKernels()


def _triton() -> Kernels:
    if not has_triton():
        raise RequestError("kernels", "triton", "need the package: pip install triton", "auto")
    from mochi.model.triton_kernels import TritonKernels

    return TritonKernels()


def has_triton() -> bool:
    """Whether the package is here; it comes with PyTorch's CUDA builds for Linux."""
    return importlib.util.find_spec("triton") is not None


class DeviceKernels(PlainKernels):
    """On each device the fastest exact kernels that are here: Triton's on CUDA, lean ones there
    without it and on a CPU, plain ones elsewhere."""

    name = "auto"

    def __init__(self) -> None:
        self._made: dict[str, Kernels] = {}

    def on(self, device: torch.device) -> Kernels:
        kind = device.type
        if kind not in self._made:
            if kind == "cuda" and has_triton():
                self._made[kind] = _triton()
            elif kind in ("cpu", "cuda", "meta"):
                self._made[kind] = LeanKernels()
            else:
                self._made[kind] = PlainKernels()
        return self._made[kind]
