"""The base model of a training: found, loaded and held as the config says."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mochi.core.errors import RequestError
from mochi.model.adapters import linear_layers
from mochi.model.attention import ChosenAttention
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.stored import StoredLinear
from mochi.pipeline.opening import load
from mochi.pipeline.pipeline import Pipeline
from mochi.training.config import Config
from mochi.training.precision import keep_masters, quantise
from mochi.training.recompute import Recomputing, checkpointed
from mochi.weights.loading import load_decoder, load_dit

LOADED_AS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Base:
    """A model to start from.

    Attributes:
        pipe: for everything that is not trained: text, samples. It loads no transformer.
        device: where it trains.
        dtype: what the network computes in; None as stored.
    """

    pipe: Pipeline
    device: torch.device
    dtype: torch.dtype | None

    @classmethod
    def find(cls, config: Config, device: str) -> Base:
        """Raises RequestError, WeightsError or DownloadError where the model cannot be had."""
        pipe = load(config.model.name, device=device, dtype=config.model.dtype)
        return cls(pipe, pipe.device, pipe.parts.precision.networks)

    @property
    def fingerprint(self) -> str:
        """Tells its weights from others'."""
        return self.pipe.model_hash

    def transformer(self, config: Config) -> AsymmDiT:
        """The transformer on its device, nothing of it learning yet.

        Raises:
            RequestError: more blocks are to be checkpointed than there are.
            WeightsError: it cannot be read; or it is quantised, and all of it is to be trained.
        """
        full = config.model.train == "full"
        dtype = torch.float32 if full else self.dtype
        # In parts, it goes to the device when nobody has all of it any more.
        device = torch.device("cpu") if config.training.shard else self.device
        dit = load_dit(self.pipe.files.part("dit"), device, dtype)
        dit.requires_grad_(False).eval()
        if full:
            _refuse_stored(dit, config.model.name)
            if self.dtype == torch.bfloat16:
                keep_masters(dit)
        if config.model.quantise != "none":
            compute = self.dtype or torch.float32
            if not quantise(dit, config.model.quantise, compute):
                rule = "finds no layers that are not quantised already"
                raise RequestError("model.quantise", config.model.quantise, rule, "none")
        dit.attention = ChosenAttention("sdpa")  # never another one when samples are made again
        dit.residency = Recomputing(
            checkpointed(config.training.checkpointed_blocks, dit.config.depth)
        )
        return dit

    def decoder(self) -> Decoder:
        """The VAE's decoder on its device, in float32."""
        decoder = load_decoder(self.pipe.files.part("decoder"), self.device, torch.float32)
        return decoder.train()


def _refuse_stored(dit: AsymmDiT, name: str) -> None:
    small = [layer for layer, module in linear_layers(dit) if isinstance(module, StoredLinear)]
    if small:
        rule = f"cannot learn on a quantised base ({name}: {len(small)} layers); train an adapter"
        raise RequestError("model.train", "full", rule, "lora")
