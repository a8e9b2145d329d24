"""The networks of one model: looked at without loading, loaded when needed, kept until released."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder
from mochi.text.encoder import TextEncoder
from mochi.text.t5 import weight_files
from mochi.weights.folder import ModelFiles
from mochi.weights.loading import load_decoder, load_dit, load_encoder
from mochi.weights.tensors import TensorFile

NetworkName = Literal["dit", "decoder", "encoder"]
PartName = Literal["text"] | NetworkName
T = TypeVar("T")

_LOADERS: Mapping[NetworkName, Callable[..., nn.Module]] = {
    "dit": load_dit,
    "decoder": load_decoder,
    "encoder": load_encoder,
}


@dataclass(frozen=True)
class Precision:
    """What the networks compute in; None means "as stored"."""

    networks: torch.dtype | None = None
    text: torch.dtype = torch.float32


@dataclass(frozen=True)
class Blueprint:
    """A network before it is loaded: its config, and its weights in bytes as they will be."""

    config: Any
    weights: int
    dtype: torch.dtype


def dit_bytes(files: ModelFiles) -> int:
    """Size of the transformer's files."""
    return sum(path.stat().st_size for path in files.dit)


class Parts:
    """Loads each network once.

    Every method that loads or looks raises `WeightsError` where a part is absent, unreadable,
    truncated or of foreign shapes; loading also where a weight is not finite.
    """

    def __init__(self, files: ModelFiles, device: torch.device, precision: Precision):
        self.files = files
        self.device = device
        self.precision = precision
        self._loaded: dict[PartName, Any] = {}
        self._blueprints: dict[PartName, Blueprint] = {}

    def dit(self) -> AsymmDiT:
        """The transformer."""
        return cast(AsymmDiT, self._get("dit", lambda: self._load("dit")))

    def decoder(self) -> Decoder:
        """The VAE's decoder."""
        return cast(Decoder, self._get("decoder", lambda: self._load("decoder")))

    def encoder(self) -> Encoder:
        """The VAE's encoder."""
        return cast(Encoder, self._get("encoder", lambda: self._load("encoder")))

    def text(self) -> TextEncoder:
        """The text encoder with its tokenizer."""
        return self._get("text", self._load_text)

    def release(self, name: PartName) -> None:
        """Give a network's memory back; it is loaded again when it is needed again."""
        part = self._loaded.pop(name, None)
        if isinstance(part, TextEncoder):
            part.close()
        del part
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def is_loaded(self, name: PartName) -> bool:
        """Whether a network is in memory."""
        return name in self._loaded

    def blueprint(self, name: NetworkName) -> Blueprint:
        """A network's sizes, off the headers of its files: names and shapes are checked on the
        way, no weight is read."""
        if name not in self._blueprints:
            network = self._load(name, device="meta", check_finite=False)
            parameters = list(network.parameters())
            largest = max(parameters, key=lambda parameter: parameter.numel())
            size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
            self._blueprints[name] = Blueprint(network.config, size, largest.dtype)
        return self._blueprints[name]

    def text_weights(self) -> int:
        """Bytes of the text encoder's weights as they will be loaded."""
        folder, _ = self.files.text_parts()
        files = [TensorFile(path) for path in weight_files(folder)]
        numbers = sum(prod(file.shape(name)) for file in files for name in file.names())
        return numbers * self.precision.text.itemsize

    def _get(self, name: PartName, load: Callable[[], T]) -> T:
        if name not in self._loaded:
            self._loaded[name] = load()
        return cast(T, self._loaded[name])

    def _load(self, name: NetworkName, **options: Any) -> Any:
        settings = {"device": self.device, "dtype": self.precision.networks} | options
        network = _LOADERS[name](self.files.part(name), **settings)
        return network.eval().requires_grad_(False)

    def _load_text(self) -> TextEncoder:
        encoder, tokenizer = self.files.text_parts()
        return TextEncoder.from_folders(
            encoder, tokenizer, dtype=self.precision.text, device=self.device
        )
