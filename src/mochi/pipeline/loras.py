"""The adapters that a pipeline's transformer wears, whether it is loaded at the moment or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch

from mochi.core.errors import RequestError
from mochi.core.events import Notice, OnEvent, ignore
from mochi.model.adapters import Adapters, compute_dtype, is_quantised
from mochi.model.dit import AsymmDiT
from mochi.model.residency import Resident
from mochi.pipeline.lora_spec import LoraMode
from mochi.weights.lora import Lora
from mochi.weights.lora_read import layer_sizes, read_lora
from mochi.weights.write import readable_bytes


@dataclass(frozen=True)
class WornLora:
    """An adapter and how it is worn.

    Attributes:
        name: what the pipeline calls it.
        source: where it came from: a name on the hub, or the file's own name without its folder.
        path: its file or folder.
        lora: its matrices.
        scale: how much of it.
        mode: computed beside the weights, or put into them.
    """

    name: str
    source: str
    path: Path
    lora: Lora
    scale: float
    mode: LoraMode

    @property
    def sha256(self) -> str:
        """Of its file."""
        return self.lora.sha256

    def record(self) -> dict[str, Any]:
        """What a video says about it."""
        return {
            "file": self.source,
            "sha256": self.sha256,
            "scale": self.scale,
            "mode": self.mode,
        }


class Loras:
    """Adapters by name. They outlive the transformer, and are put on whenever it is loaded.

    Where its weights are not in place but pass by block by block (the lower memory modes), there is
    nothing to merge them into, and all of them are computed live.

    Args:
        skeleton: gives the transformer without its weights, on the meta device.
    """

    def __init__(self, skeleton: Callable[[], AsymmDiT]):
        self._skeleton = skeleton
        self._worn: dict[str, WornLora] = {}
        self._adapters: Adapters | None = None
        self._in_place = True

    def __iter__(self) -> Iterator[WornLora]:
        return iter(self._worn.values())

    def __len__(self) -> int:
        return len(self._worn)

    def record(self) -> list[dict[str, Any]] | None:
        """What a video says about them; None where there are none."""
        return [worn.record() for worn in self] or None

    def add(
        self,
        path: Path,
        source: str,
        scale: float,
        name: str | None,
        mode: LoraMode,
        on_event: OnEvent = ignore,
    ) -> WornLora:
        """Read an adapter and put it on.

        Raises:
            RequestError: the name is taken, or this very adapter is worn already.
            WeightsError: it is unreadable, or does not fit the transformer; lists what does not.
        """
        if name is not None and (name in self._worn or not name):
            taken = ", ".join(self._worn) or "nothing"
            raise RequestError("name", name, f"is empty or taken; in use: {taken}")
        lora = read_lora(path, self._sizes)
        for worn in self:
            if worn.sha256 == lora.sha256:
                rule = f"is on already, as {worn.name!r}; change its scale instead"
                raise RequestError("lora", source, rule, f"set_lora_scale({worn.name!r}, ...)")
        called = name or self._free(Path(source).stem or source)
        worn = WornLora(called, source, path, lora, scale, mode)
        if mode == "merged":
            on_event(Notice(f"{worn.name}: {self._cost(lora)}"))
        if self._adapters is not None:
            self._put_on(worn)
        self._worn[worn.name] = worn
        return worn

    def set_scale(self, name: str, scale: float) -> None:
        """Another amount of one of them.

        Raises:
            RequestError: there is none of this name.
        """
        worn = self._get(name)
        if self._adapters is not None:
            self._adapters.set_strength(name, scale)
        self._worn[name] = replace(worn, scale=scale)

    def remove(self, name: str) -> None:
        """Take one off; raises as `set_scale`."""
        self._get(name)
        if self._adapters is not None:
            self._adapters.remove(name)
        del self._worn[name]

    def clear(self) -> None:
        """Take all off."""
        for name in list(self._worn):
            self.remove(name)

    def dress(self, dit: AsymmDiT) -> AsymmDiT:
        """Put all of them on a transformer that was just loaded."""
        self._adapters, self._in_place = Adapters(dit), isinstance(dit.residency, Resident)
        for worn in self:
            self._put_on(worn)
        return dit

    def undress(self) -> None:
        """The transformer is leaving memory."""
        self._adapters = None

    def nbytes(self, dtype: torch.dtype) -> int:
        """Bytes that they take beside a transformer that computes in `dtype`."""
        live = sum(worn.lora.parameters for worn in self if worn.mode == "live")
        merged = {layer for worn in self if worn.mode == "merged" for layer in worn.lora.layers}
        return (live + self._dense_numbers(merged)) * dtype.itemsize

    @cached_property
    def _sizes(self) -> Mapping[str, tuple[int, int]]:
        return layer_sizes(self._skeleton())

    def _get(self, name: str) -> WornLora:
        if name not in self._worn:
            raise RequestError(
                "name", name, "is no adapter in use", ", ".join(self._worn) or "none"
            )
        return self._worn[name]

    def _free(self, stem: str) -> str:
        names = (stem, *(f"{stem}-{number}" for number in range(2, len(self) + 3)))
        return next(name for name in names if name not in self._worn)

    def _put_on(self, worn: WornLora) -> None:
        assert self._adapters is not None
        merged = worn.mode == "merged" and self._in_place
        self._adapters.add(worn.name, worn.lora.factors(), worn.scale, merged=merged)

    def _dense_numbers(self, layers: Iterable[str]) -> int:
        return sum(prod(self._sizes[layer]) for layer in layers)

    def _cost(self, lora: Lora) -> str:
        """What merging takes: the originals stay, so that they can be put back."""
        skeleton = self._skeleton()
        layers = [skeleton.get_submodule(name) for name in lora.layers]
        dtype = compute_dtype(layers[0])
        size = self._dense_numbers(lora.layers) * dtype.itemsize
        quantised = sum(map(is_quantised, layers))
        what = f"{quantised} quantised layers become dense" if quantised else "merged"
        return f"{what}: {readable_bytes(size)} more for {len(layers)} layers beside the originals"
