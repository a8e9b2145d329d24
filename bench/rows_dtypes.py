"""Rows of precisions on a CPU: layers in float32 and bfloat16, here and on older processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pairs import Apart, Effort, Row, alternate

LIMITS = ("AVX2", "AVX512_CORE", "DEFAULT")
"""What oneDNN is held to; it reads that once in a process."""

LAYERS = {
    "linear": "512 rows, width 1024",
    "convolution": "3x3x3, 64 channels, 34x34x3",
}
_CALLS = 20


def rows() -> Sequence[Row]:
    """The rows."""
    layers = ", ".join(f"{name} ({size})" for name, size in LAYERS.items())
    return [
        Row(
            name="dtypes",
            what=f"layers in float32: {layers}",
            against="bfloat16, under each limit of oneDNN's instructions",
            reach="none: tells where a model stored in bfloat16 is to compute in float32",
            measure=_measure,
        )
    ]


def _measure(effort: Effort) -> Mapping[str, Any]:
    import torch

    found: dict[str, dict[str, Any]] = {"sides": {}, "ratio": {}}
    for limit in LIMITS:
        for layer in LAYERS:
            sides = {
                dtype: Apart(
                    "rows_dtypes:calls",
                    {"layer": layer, "dtype": dtype, "threads": torch.get_num_threads()},
                    environment={"ONEDNN_MAX_CPU_ISA": limit},
                )
                for dtype in ("float32", "bfloat16")
            }
            pair = alternate(sides, effort.repeats)
            for dtype, side in pair["sides"].items():
                found["sides"][f"{layer}, {limit}, {dtype}"] = side
            found["ratio"][f"bfloat16 {layer}, {limit}"] = pair["ratio"]["bfloat16"]
    return found


def calls(layer: str, dtype: str, threads: int) -> Callable[[], None]:
    """A layer, some times over."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    kind: Any = getattr(torch, dtype)
    if layer == "linear":
        given, weight, compute = torch.randn(512, 1024), torch.randn(1024, 1024), F.linear
    else:
        given, weight = torch.randn(1, 64, 3, 34, 34), torch.randn(64, 64, 3, 3, 3)
        compute = F.conv3d
    given, weight = given.to(kind), weight.to(kind)

    def work() -> None:
        for _ in range(_CALLS):
            compute(given, weight)

    return work
