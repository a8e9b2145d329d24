"""Layers in float32 and in bfloat16 on this processor, or held to what an older one has.

    OMP_NUM_THREADS=1 python bench/dtypes.py

Each limit has a process of its own, because oneDNN reads it once. Both sides alternate; ratios are
medians.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

LIMITS = ("AVX2", "AVX512_CORE", "DEFAULT")
ROUNDS = 15


def main() -> None:
    """Measure here, or once for each limit."""
    if sys.argv[1:] == ["here"]:
        measure()
        return
    for limit in LIMITS:
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": limit}
        print(limit, flush=True)
        subprocess.run([sys.executable, __file__, "here"], env=environment, check=True)


def measure() -> None:
    """How many times as fast float32 is."""
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    x, weight = torch.randn(512, 1024), torch.randn(1024, 1024)
    video, kernel = torch.randn(1, 64, 3, 34, 34), torch.randn(64, 64, 3, 3, 3)
    layers: dict[str, tuple[Callable[..., object], tuple[torch.Tensor, ...]]] = {
        "linear, 512 rows, width 1024": (F.linear, (x, weight)),
        "convolution 3x3x3, 64 channels, 34x34x3": (F.conv3d, (video, kernel)),
    }
    for name, (layer, given) in layers.items():
        small = tuple(tensor.bfloat16() for tensor in given)
        ratios = []
        for _ in range(ROUNDS + 1):
            wide_seconds, small_seconds = seconds(layer, given), seconds(layer, small)
            ratios.append(small_seconds / wide_seconds)
        print(f"  {name}: {statistics.median(ratios[1:]):.2f} times as fast in float32")


def seconds(layer: Callable[..., object], given: tuple[object, ...]) -> float:
    """Of the processor."""
    began = time.process_time()
    layer(*given)
    return time.process_time() - began


if __name__ == "__main__":
    main()
