"""Latents as files: what a run starts from, and what it leaves for another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mochi.core.errors import RequestError, WeightsError
from mochi.core.latents import DitLatent
from mochi.core.request import GenerateRequest
from mochi.video.output import claim
from mochi.weights.tensors import TensorFile


@dataclass(frozen=True)
class StoredLatents:
    """A latent in DiT space and how noisy it is.

    Attributes:
        latent: float32, `(1, 12, t, h, w)`.
        sigma: 1 is pure noise, 0 is done (only decoding is left); between them the part of the
            schedule below sigma is what is left.
        record: of the run that made it.
    """

    latent: DitLatent
    sigma: float = 0.0
    record: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write a .safetensors file.

        Raises:
            OutputError: the file exists, or cannot be written.
        """
        from safetensors.torch import save

        metadata = {"sigma": repr(self.sigma), "record": json.dumps(dict(self.record))}
        tensor = self.latent.tensor.detach().float().cpu().contiguous()
        with claim(path, overwrite=overwrite) as part:
            part.write_bytes(save({"latents": tensor}, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> StoredLatents:
        """Read what `save` wrote.

        Raises:
            WeightsError: no safetensors file, no latents in it, or not finite.
        """
        file = TensorFile(Path(path))
        if "latents" not in file.names():
            raise WeightsError("there is no tensor called latents in it", path)
        tensor = file.tensor("latents").clone().float()
        try:
            sigma = float(file.metadata.get("sigma", "0"))
            record = json.loads(file.metadata.get("record", "{}"))
        except ValueError as error:
            raise WeightsError(f"its metadata is broken: {error}", path) from error
        if not torch.isfinite(tensor).all() or not 0.0 <= sigma <= 1.0:
            raise WeightsError("its latents are not finite, or sigma is not in [0, 1]", path)
        return cls(DitLatent(tensor), sigma, record)

    def checked(self, request: GenerateRequest, channels: int) -> Tensor:
        """The tensor, if it has the request's shape.

        Raises:
            RequestError: it has another.
        """
        tensor, expected = self.latent.tensor, request.size.latent.shape(1, channels)
        if tuple(tensor.shape) != expected:
            raise RequestError(
                "latents", tuple(tensor.shape), f"do not make {request.size}", expected
            )
        return tensor
