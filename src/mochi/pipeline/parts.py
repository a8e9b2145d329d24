"""The networks of one model: looked at without loading, loaded when needed, kept until released."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from mochi.core.errors import RequestError
from mochi.core.heap import trim
from mochi.core.latents import MOCHI_STATS
from mochi.core.speed import Speed
from mochi.memory.modes import MODES, Mode
from mochi.memory.residency import Streamed, stream_blocks
from mochi.memory.stream import BlockStream, Carriage
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder
from mochi.model.products import EIGHTS, compute_in_eight_bits
from mochi.parallel.sharded import ShardedDit
from mochi.pipeline.facts import Blueprint, blueprint_of
from mochi.pipeline.loras import Loras
from mochi.pipeline.preview import Picture, fit_preview
from mochi.pipeline.sharding import WeightShards
from mochi.pipeline.text_weights import CheckpointT5
from mochi.text.encoder import TextEncoder
from mochi.weights.deferred import load_dit_deferred
from mochi.weights.folder import ModelFiles, open_part
from mochi.weights.loading import load_decoder, load_dit, load_encoder
from mochi.weights.names import Part

NetworkName = Literal["dit", "decoder", "encoder"]
PartName = Literal["text"] | NetworkName
T = TypeVar("T")

_LOADERS: Mapping[NetworkName, Callable[..., nn.Module]] = {
    "dit": load_dit,
    "decoder": load_decoder,
    "encoder": load_encoder,
}
PARTS: Mapping[PartName, Part] = {
    "text": "t5",
    "dit": "dit",
    "decoder": "decoder",
    "encoder": "encoder",
}
"""What the weights call each part."""

_WORTH_A_SEARCH = 2**26
"""Bytes of a network after which memory is searched for what nobody holds: half a second."""


@dataclass(frozen=True)
class Precision:
    """What the networks compute in; None means "as stored".

    Attributes:
        networks: the transformer and the VAE.
        text: the text encoder.
        dequantize: decode quantised weights when they are loaded.
        products: `exact`, or how the transformer's blocks multiply in 8 bits.
    """

    networks: torch.dtype | None = None
    text: torch.dtype = torch.float32
    dequantize: bool = False
    products: str = "exact"

    @property
    def exact(self) -> bool:
        """Whether all products are exact."""
        return self.products == "exact"


class Parts:
    """Loads each network once, and holds it as its memory mode says.

    Attributes:
        loras: the adapters that the transformer wears.
        speed: which fast paths it takes.
        shards: with whom the weights of the transformer's blocks are kept; set before it is
            loaded. None keeps all here.

    Every method that loads or looks raises `WeightsError` where a part is absent, unreadable,
    truncated or of foreign shapes; loading also where a weight is not finite.
    """

    def __init__(self, files: ModelFiles, device: torch.device, precision: Precision):
        self.files = files
        self.device = device
        self.precision = precision
        self.speed = Speed()
        self.shards: WeightShards | None = None
        self._modes: dict[PartName, Mode] = {}
        self._limits: dict[PartName, Mode] = {}
        self._loaded: dict[PartName, Any] = {}
        self._picture: Picture | None = None
        self._streams: dict[PartName, Streamed | BlockStream | ShardedDit] = {}
        self._blueprints: dict[PartName, Blueprint] = {}
        self.loras = Loras(lambda: self._load("dit", device="meta", check_finite=False))

    def dit(self) -> AsymmDiT:
        """The transformer, with the adapters that it wears."""
        return self._get("dit", lambda: self.loras.dress(self._load_dit()))

    def decoder(self) -> Decoder:
        """The VAE's decoder."""
        return cast(Decoder, self._get("decoder", lambda: self._load("decoder")))

    def picture(self) -> Picture:
        """Rough pictures of latents, as the decoder would make them; fitted once."""
        if self._picture is None:
            self._picture = fit_preview(self.decoder(), MOCHI_STATS)
        return self._picture

    def encoder(self) -> Encoder:
        """The VAE's encoder."""
        return cast(Encoder, self._get("encoder", lambda: self._load("encoder")))

    def text(self) -> TextEncoder:
        """The text encoder with its tokenizer."""
        return self._get("text", self._load_text)

    def mode(self, name: PartName) -> Mode:
        """How a network is held."""
        return self._modes.get(name, "high")

    def hold(self, name: PartName, mode: Mode) -> None:
        """Hold a network in another way from its next use on, but never as one that failed."""
        mode = max(mode, self._limits.get(name, mode), key=MODES.index)
        if mode != self.mode(name):
            self.release(name)
            self._modes[name] = mode

    def limit(self, name: PartName, mode: Mode) -> None:
        """Hold a network in this mode or a smaller one from now on: others took too much."""
        self._limits[name] = mode
        self.hold(name, mode)

    def done_with(self, name: PartName) -> None:
        """A stage that used a network is over: unless it is held for good, its memory goes."""
        if self.mode(name) != "high":
            self.release(name)

    def release(self, name: PartName) -> None:
        """Give a network's memory back; it is loaded again when it is needed again."""
        part, stream = self._loaded.pop(name, None), self._streams.pop(name, None)
        if part is None and stream is None:
            return
        if isinstance(part, TextEncoder):
            part.close()
        if name == "dit":
            self.loras.undress()
        if stream is not None:
            stream.close()
        del part, stream
        known = self._blueprints.get(name)
        if known is None or known.weights.ready.total > _WORTH_A_SEARCH:
            give_memory_back(self.device)

    def release_all(self) -> None:
        """Give the memory of all networks back."""
        for name in list(self._loaded):
            self.release(name)
        give_memory_back(self.device)

    def is_loaded(self, name: PartName) -> bool:
        """Whether a network is in memory."""
        return name in self._loaded

    def blueprint(self, name: PartName) -> Blueprint:
        """A network's sizes, off the headers of its files: names and shapes are checked on the
        way, no weight is read."""
        if name not in self._blueprints:
            part = PARTS[name]
            dtype = self.precision.text if name == "text" else self.precision.networks
            view = open_part(part, self.files.part(part))
            dequantize = self.precision.dequantize
            self._blueprints[name] = blueprint_of(view, dtype, dequantize)
        return self._blueprints[name]

    def _get(self, name: PartName, load: Callable[[], T]) -> T:
        if name not in self._loaded:
            self._loaded[name] = load()
        return cast(T, self._loaded[name])

    def _load(self, name: NetworkName, **options: Any) -> Any:
        settings = {"device": self.device, "dtype": self.precision.networks} | options
        if name == "dit":
            settings.setdefault("dequantize", self.precision.dequantize)
        network = _LOADERS[name](self.files.part(name), **settings)
        return network.eval().requires_grad_(False)

    def _load_dit(self) -> AsymmDiT:
        mode, dtype = self.mode("dit"), self.precision.networks
        if mode == "high" and self.shards is None:
            whole = cast(AsymmDiT, self._load("dit"))
            if not self.precision.exact:
                compute_in_eight_bits(whole.blocks, EIGHTS[self.precision.products])
            return whole
        if not self.precision.exact:
            held = f"memory is {mode}" if self.shards is None else "its weights are sharded"
            rule = f"needs the whole transformer in memory, and {held}"
            raise RequestError("products", self.precision.products, rule, "memory high, or exact")
        found = load_dit_deferred(
            self.files.part("dit"), self.device, dtype, dequantize=self.precision.dequantize
        )
        dit = found.network.eval().requires_grad_(False)
        blocks = list(dit.blocks)
        means: dict[str, Any] = {"deferred": found.deferred, "check": found.check}
        streamed: Streamed | ShardedDit
        if self.shards is not None:
            streamed = self.shards.dit(blocks, self.device, dtype, **means)
        else:
            streamed = stream_blocks(blocks, mode, self.device, dtype, **means)
        dit.residency = self._streams["dit"] = streamed
        return dit

    def _load_text(self) -> TextEncoder:
        mode, dtype = self.mode("text"), self.precision.text
        residency = None
        if mode in ("low", "minimal"):
            drops = mode == "minimal" or self.device.type != "cpu"
            carriage = Carriage(self.device, dtype, drops_pages=drops, returns=False)
            residency = self._streams["text"] = BlockStream(carriage)
        return TextEncoder.from_folders(
            CheckpointT5.of(self.files),
            self.files.tokenizer_folder(),
            dtype=dtype,
            device=self.device,
            residency=residency,
            dequantize=self.precision.dequantize,
        )


def give_memory_back(device: torch.device) -> None:
    """What nobody holds any more goes to the system, and does not wait to be used again."""
    gc.collect()
    trim()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
