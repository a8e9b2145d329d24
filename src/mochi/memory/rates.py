"""How fast this machine is: a second of measurement, from which a plan tells the time of hours.

Whole blocks of the networks are timed, on random numbers, so that what is not matrix products
(norms, gates, copies) is in the rates too.
"""

from __future__ import annotations

import mmap
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mochi.core.config import DiTConfig
from mochi.core.sizes import VideoSize
from mochi.memory.work import Work, forward_work
from mochi.model.causal import ResBlock
from mochi.model.dit import AsymmDiT
from mochi.model.exchange import FrameStream

_REPEATS = 2
_DIT = DiTConfig(
    depth=2, heads=8, head_dim=128, visual_width=1024, text_width=512, text_features=512
)
_SIZE, _TEXT_TOKENS = VideoSize(7, 256, 256), 64
_LONG_TOKENS = 1024
_CHANNELS, _FRAMES, _SIDE = 256, 2, 24
_KERNEL = 27
_READ_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Rates:
    """What a device does in one second.

    Attributes:
        linear, attention, convolution: operations, as `Work` counts them.
        copy: bytes of weights that are brought to the device, or converted there.
        disk: bytes that are read from the disk with the model, where the system's cache has not
            got them; 0 where that could not be measured.
    """

    linear: float
    attention: float
    convolution: float
    copy: float
    disk: float = 0.0

    def seconds(self, work: Work) -> float:
        """The time that some work takes."""
        return (
            work.linear / self.linear
            + work.attention / self.attention
            + work.convolution / self.convolution
        )

    def to_dict(self) -> dict[str, float]:
        """Plain numbers by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Rates | None:
        """What `to_dict` gave; None for anything else, such as an older version's."""
        names = [field.name for field in fields(cls)]
        if set(content) != set(names):
            return None
        values = {name: content[name] for name in names}
        if not all(isinstance(v, (int, float)) and v >= 0 for v in values.values()):
            return None
        return cls(**values) if all(values[name] for name in names[:-1]) else None


def measure_rates(device: torch.device, dtype: torch.dtype, file: Path | None = None) -> Rates:
    """Time blocks of the networks; takes about a second.

    Args:
        device: where they compute.
        dtype: what they compute in.
        file: a large one on the disk with the model.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        attention = _attention_rate(device, dtype, generator)
        work = forward_work(_DIT, _SIZE, _TEXT_TOKENS)
        taken = _forward_seconds(device, dtype, generator) - work.attention / attention
        return Rates(
            linear=work.linear / max(taken, 1e-9),
            attention=attention,
            convolution=_convolution_rate(device, dtype, generator),
            copy=_copy_rate(device, dtype),
            disk=_disk_rate(file) if file is not None else 0.0,
        )


def _forward_seconds(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> float:
    dit = _random(lambda: AsymmDiT(_DIT), device, dtype, generator)
    latent = _SIZE.latent.shape(1, _DIT.latent_channels)
    z, sigma = torch.randn(latent, generator=generator).to(device), torch.ones(1, device=device)
    text = torch.randn(1, _TEXT_TOKENS, _DIT.text_features, generator=generator).to(device, dtype)
    mask = torch.ones(1, _TEXT_TOKENS, dtype=torch.bool, device=device)
    context = dit.prepare_text(text, mask)
    return _seconds(lambda: dit.velocity(z, sigma, context), device)


def _attention_rate(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> float:
    shape = (1, _LONG_TOKENS, _DIT.heads, _DIT.head_dim)
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    with torch.device("meta"):
        attention = AsymmDiT(_DIT).attention
    taken = _seconds(lambda: attention(q, k, v), device)
    return 4 * _LONG_TOKENS**2 * _DIT.visual_width / taken


def _convolution_rate(
    device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> float:
    block = _random(lambda: ResBlock(_CHANNELS), device, dtype, generator)
    shape = (1, _CHANNELS, _FRAMES, _SIDE, _SIDE)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    taken = _seconds(lambda: block(x, FrameStream()), device)
    return 2 * 2 * _KERNEL * _CHANNELS**2 * _FRAMES * _SIDE**2 / taken


def _copy_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Bytes of the result: on a CPU of a conversion between float32 and bfloat16."""
    other = torch.bfloat16 if dtype == torch.float32 else torch.float32
    source = torch.zeros(_READ_BYTES // 4, dtype=other if device.type == "cpu" else dtype)
    target = torch.empty(source.shape, dtype=dtype, device=device)
    return target.nbytes / _seconds(lambda: target.copy_(source), device)


def _random(
    make: Callable[[], nn.Module],
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> Any:
    """A network with small random weights that leaves the program's random state alone."""
    with torch.device("meta"):
        network = make()
    network = network.to_empty(device="cpu").requires_grad_(False)
    for tensor in network.parameters():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) / 16)
    return network.to(device=device, dtype=dtype)


def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    """The median of a few runs, after one that is not counted."""
    taken = []
    for _ in range(_REPEATS + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return max(1e-9, statistics.median(taken[1:]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _disk_rate(file: Path) -> float:
    """Bytes a second, past the system's cache; 0 where the system does not offer that."""
    direct = getattr(os, "O_DIRECT", 0)
    size = file.stat().st_size // _READ_BYTES * _READ_BYTES
    if not direct or not size:
        return 0.0
    try:
        handle = os.open(file, os.O_RDONLY | direct)
    except OSError:
        return 0.0
    try:
        with mmap.mmap(-1, _READ_BYTES) as aligned:
            start = time.perf_counter()
            read = os.preadv(handle, [aligned], size // 2 // _READ_BYTES * _READ_BYTES)
            return read / max(1e-9, time.perf_counter() - start)
    except OSError:
        return 0.0
    finally:
        os.close(handle)
