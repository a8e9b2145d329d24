"""Names of devices to devices that are there."""

from __future__ import annotations

import torch

from mochi.core.errors import RequestError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

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


def pick_dtype(
    field: str, name: str, device: torch.device, stored_bytes: int = 0
) -> torch.dtype | None:
    """What the networks compute in; None means "as stored".

    `auto` keeps what is stored, except that a large model becomes bfloat16 on anything but a CPU:
    the published recipe (SPEC 2, Precision). On a CPU a smaller copy would cost memory and a pass
    over the file.

    Raises:
        RequestError: there is no such dtype.
    """
    if name == "auto":
        return None if device.type == "cpu" or stored_bytes < LARGE_BYTES else torch.bfloat16
    if name not in DTYPES:
        raise RequestError(field, name, "is unknown", ", ".join(["auto", *DTYPES]))
    return DTYPES[name]
