"""What there is to work with: the machine, its devices, the models, and what fits where."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import psutil
import torch

import mochi
from mochi.core.errors import DoesNotFitError, MochiError
from mochi.core.sizes import VideoSize
from mochi.memory.available import available_bytes, host_available_bytes
from mochi.model.attention import KERNELS
from mochi.model.fast import make_kernels
from mochi.parallel.choice import AUTO, Circumstances, choose
from mochi.parallel.links import link_between
from mochi.pipeline.devices import multiplies_in_bfloat16, pick_device, present_devices
from mochi.pipeline.models import Hub, present_models
from mochi.pipeline.opening import open_model
from mochi.pipeline.pipeline import Pipeline
from mochi.weights.folder import ModelFiles

_PACKAGES = ("torch", "transformers", "av", "huggingface_hub", "safetensors", "numpy", "typer")


@dataclass(frozen=True)
class Device:
    """A device: what torch calls it, what it is, and its memory in bytes.

    Attributes:
        kernels: those that a run takes for the elementwise pieces.
        attention: kernels for attention that are here; a run takes the fastest.
        dtypes: that it has instructions for; models compute in no other unless told to.
    """

    name: str
    description: str
    available_bytes: int
    kernels: str = ""
    attention: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """Where this runs. Memory in bytes; `available` within the limits set on this process."""

    system: str
    python: str
    cores: int
    memory_bytes: int
    available_bytes: int
    mochi: str
    packages: dict[str, str]
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class ModelState:
    """A model on this machine.

    Attributes:
        weights_bytes: of its files.
        default: the size of its videos when nothing else is asked for.
        fits: the largest video up to that size that fits the device; None where none does.
        problem: why it cannot be used; "" if it can.
    """

    name: str
    folder: str
    weights_bytes: int = 0
    default: VideoSize | None = None
    fits: VideoSize | None = None
    problem: str = ""


def survey_machine() -> Machine:
    """The machine as it is now."""
    return Machine(
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        python=platform.python_version(),
        cores=_cores(),
        memory_bytes=psutil.virtual_memory().total,
        available_bytes=host_available_bytes(),
        mochi=mochi.__version__,
        packages=dict(_versions()),
        devices=tuple(_device(name) for name in present_devices()),
    )


def survey_models(
    folders: Sequence[str] = (), device: str = "auto", hub: Hub | None = None
) -> list[ModelState]:
    """Models on this machine: nano, those in the hub's cache, and those in the given folders.

    No weights are read, and nothing is fetched.

    Raises:
        RequestError: there is no such device.
    """
    place = pick_device(device)
    states = [_state(name, files, place) for name, files in present_models(hub).items()]
    for folder in folders:
        try:
            states.append(_state(folder, ModelFiles.find(folder), place))
        except MochiError as error:
            states.append(ModelState(folder, folder, problem=str(error)))
    return states


def _state(name: str, files: ModelFiles, device: torch.device) -> ModelState:
    folder = str(files.folder)
    size = sum(path.stat().st_size for path in files.weight_files())
    try:
        pipe = open_model(files, name, device)
        settings = pipe.card.settings
        default = VideoSize(settings.frames, settings.height, settings.width)
        return ModelState(name, folder, size, default, _largest(pipe, default))
    except MochiError as error:
        return ModelState(name, folder, size, problem=str(error))


def _largest(pipe: Pipeline, default: VideoSize) -> VideoSize | None:
    try:
        pipe.budget.check(default)  # usually true, and quickly known
    except DoesNotFitError:
        return pipe.budget.largest(default)
    return default


def device_name(name: str) -> str:
    """What a device is, as its maker calls it."""
    return torch.cuda.get_device_name(name) if name.startswith("cuda") else _processor()


def _device(name: str) -> Device:
    place = torch.device(name)
    attention = tuple(kernel for kernel, it in KERNELS.items() if it.is_here(place.type))
    kernels = make_kernels("auto").on(place).name
    able = place.type != "cpu" or multiplies_in_bfloat16()
    dtypes = ("float32", "bfloat16") if able else ("float32",)
    return Device(name, device_name(name), available_bytes(name), kernels, attention, dtypes)


def _processor() -> str:
    """The processor's own name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


def parallel_advice(pipe: Pipeline) -> str | None:
    """How all GPUs of this machine would share a guided video of a model, and why; None where there
    are not several."""
    count = torch.cuda.device_count()
    if count < 2:
        return None
    heads = pipe.parts.blueprint("dit").config.heads
    about = Circumstances(count, 1, heads, True, link_between("cuda", range(count)))
    return choose(AUTO, about).why
