"""Names of devices to devices that are there."""

from __future__ import annotations

import os
import platform

import torch

from mochi.core.errors import RequestError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_CPU_RANKS = 16

LARGE_BYTES = 2**30
"""Smaller networks gain nothing by less precision."""


def present_devices() -> list[str]:
    """Names of the devices of this machine, the fastest first."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def pick_device(name: str) -> torch.device:
    """`auto` is the fastest device there is; any other name is checked.

    Raises:
        RequestError: there is no such device; lists those there are.
    """
    present = present_devices()
    if name == "auto":
        return torch.device(present[0])
    if name == "cuda" and "cuda:0" in present:
        return torch.device("cuda:0")
    if name not in present:
        raise RequestError("device", name, "is not on this machine", ", ".join(["auto", *present]))
    return torch.device(name)


def pick_devices(name: str, count: int) -> list[torch.device]:
    """Devices of this machine to share one video.

    Args:
        name: `cpu` for that many processes on it; `cuda`, or `auto`, for the first GPUs.
        count: how many.

    Raises:
        RequestError: there are not so many, or `name` is a single one.
    """
    if count < 1:
        raise RequestError("devices", count, "is not a positive number", 1)
    if name == "cpu":
        most = max(_CPU_RANKS, os.cpu_count() or 1)
        if count > most:
            raise RequestError("devices", count, "are too many processes for this processor", most)
        return [torch.device("cpu")] * count
    if name not in ("auto", "cuda"):
        rule = f"is one device, and devices is {count}"
        raise RequestError("device", name, rule, "cuda, cpu or auto")
    present = torch.cuda.device_count()
    if count > present:
        found = f"{present} GPUs" if present > 1 else "one GPU" if present else "no GPU"
        rule = f"are more than this machine has: {found}"
        raise RequestError("devices", count, rule, f"{max(1, present)}, or --device cpu")
    return [torch.device("cuda", index) for index in range(count)]


def pick_ranked(name: str, local_rank: int) -> torch.device:
    """The device of one of several processes that somebody else started on this machine.

    Raises:
        RequestError: there are more processes than GPUs, or `name` is a single device.
    """
    present = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not present):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        rule = "is one device, and there are several processes"
        raise RequestError("device", name, rule, "cuda, cpu or auto")
    if local_rank >= present:
        rule = f"has process {local_rank} of this machine, which has {present} GPUs"
        raise RequestError("device", name, rule, "a process for each GPU, or --device cpu")
    return torch.device("cuda", local_rank)


def pick_dtype(
    field: str, name: str, device: torch.device, stored_bytes: int = 0, kind: str = "float32"
) -> torch.dtype | None:
    """What the networks compute in; None means "as stored".

    `auto` keeps float32 and bfloat16 as they are stored, except that a large model becomes bfloat16
    on anything but a CPU: the published recipe (SPEC 2, Precision). On a CPU a smaller copy would
    cost memory and a pass over the file. What no network should compute in (float16, which
    overflows, float8, ggml blocks) becomes bfloat16 where the model is large, else float32. A CPU
    that does not multiply in bfloat16 computes everything in float32.

    Args:
        field: for the error.
        name: what was asked for.
        device: where it runs.
        stored_bytes: size of the network in its file.
        kind: how most of it is stored.

    Raises:
        RequestError: there is no such dtype.
    """
    if name not in ("auto", *DTYPES):
        raise RequestError(field, name, "is unknown", ", ".join(["auto", *DTYPES]))
    if name != "auto":
        return DTYPES[name]
    if device.type == "cpu" and not multiplies_in_bfloat16():
        return torch.float32
    large = stored_bytes >= LARGE_BYTES
    if kind not in DTYPES:
        return torch.bfloat16 if large else torch.float32
    return torch.bfloat16 if large and device.type != "cpu" else None


def multiplies_in_bfloat16() -> bool:
    """Whether this CPU has instructions for it.

    Without them float32 is faster: 2.4 times in linear layers with AVX512, 4.2 times with AVX2, and
    65 times in convolutions (`bench/cpu.py dtypes`, docs/speed.md).
    """
    if not torch.backends.mkldnn.is_available():
        return False
    known = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if platform.machine().lower() in ("x86_64", "amd64"):
        return known and torch.cpu._is_avx512_bf16_supported()
    return known


def slow_dtype_note(dtype: torch.dtype | None, device: torch.device, kind: str) -> str:
    """What to tell of networks stored in `kind` that compute in `dtype`; often nothing."""
    if device.type != "cpu" or kind == "float32" or multiplies_in_bfloat16():
        return ""
    if dtype == torch.float32:
        return "computing in float32: this processor does not multiply in bfloat16"
    return "this processor does not multiply in bfloat16: --dtype float32 is faster"
