"""A prepared folder as a trainer sees it: samples with names; latents and features by index."""

# Shapes: C latent channels, T H W of the latent, N text tokens, F features of a token.

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mochi.core.errors import RequestError, WeightsError
from mochi.core.sizes import LATENT_CHANNELS
from mochi.training.data.buckets import Bucket
from mochi.training.data.folder import DATASET, INDEX, SPACE, VERSION, DataFolder, read_tensors


@dataclass(frozen=True)
class Sample:
    """One clip with its caption.

    Attributes:
        name: of its file below the clips' folder; with `@START` behind it where several come from
            one file. Unique.
        sha256: the key of its latents: tells this content at this size from others.
        caption: as it was written.
        bucket: `FRAMESxHEIGHTxWIDTH`.
        seconds: how long it plays.
    """

    name: str
    sha256: str
    caption: str
    bucket: str
    frames: int
    height: int
    width: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the index."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class LoadedSample:
    """One sample in memory, float32 latents normalised per channel (SPEC 3, 6).

    A draw of what the transformer learns to make is `mean + exp(0.5 * logvar) * noise`.

    Attributes:
        mean_CTHW, logvar_CTHW: of the posterior.
        text_NF: features of the caption's tokens, without padding.
        empty_text_NF: of the empty caption, `(0, F)`: what caption dropout puts in its place.
        name: of the sample.
    """

    mean_CTHW: Tensor
    logvar_CTHW: Tensor
    text_NF: Tensor
    empty_text_NF: Tensor
    name: str


class Dataset:
    """A prepared folder; `load` may be called from several threads.

    Attributes:
        path: the folder.
        facts: what `dataset.json` says: `vae`, `text_encoder` (fingerprints), `settings`.
        samples: in order of their names.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], samples: Sequence[Sample]):
        self.path = path
        self.facts = facts
        self.samples = tuple(samples)
        self._folder = DataFolder(path)

    def __len__(self) -> int:
        """How many samples."""
        return len(self.samples)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """Those that hold a sample, in order."""
        return tuple(sorted({Bucket.parse(sample.bucket) for sample in self.samples}))

    def load(self, index: int) -> LoadedSample:
        """One sample, copied into memory.

        Raises:
            WeightsError: its file is missing or damaged, has another shape, or holds NaN; names
                the sample.
        """
        sample = self.samples[index]
        latents = self._tensors(sample, self._folder.sample(sample.sha256), ("mean", "logvar"))
        size = Bucket.parse(sample.bucket).size.latent
        wanted = (LATENT_CHANNELS, size.frames, size.height, size.width)
        for tensor in latents.values():
            if tuple(tensor.shape) != wanted:
                raise _unusable(sample, f"its latents are {tuple(tensor.shape)}, not {wanted}")
        return LoadedSample(
            latents["mean"].float(),
            latents["logvar"].float(),
            self._features(sample, sample.caption),
            self._features(sample, ""),
            sample.name,
        )

    def _features(self, sample: Sample, caption: str) -> Tensor:
        (features,) = self._tensors(sample, self._folder.caption(caption), ("features",)).values()
        if features.ndim != 2:
            raise _unusable(sample, f"its text features are {tuple(features.shape)}")
        return features

    def _tensors(self, sample: Sample, path: Path, names: Sequence[str]) -> dict[str, Tensor]:
        try:
            found = read_tensors(path, names)
        except WeightsError as error:
            raise _unusable(sample, str(error)) from error
        for name, tensor in found.items():
            if not bool(torch.isfinite(tensor).all()):
                raise _unusable(sample, f"{path.name}: {name} holds NaN or infinity")
        return found


def open_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Open what `mochi prepare` made. No tensor is read yet.

    Raises:
        WeightsError: it is no prepared folder, is not finished, is of another version, or empty.
    """
    root = Path(path)
    if not (root / DATASET).is_file():
        raise WeightsError("is no prepared folder; `mochi prepare CLIPS -o DATA` makes one", root)
    folder = DataFolder(root)
    facts = folder.read_json(DATASET)
    if facts.get("version") != VERSION or facts.get("space") != SPACE:
        raise WeightsError(
            f"is of version {facts.get('version')}, this program reads {VERSION}; prepare it again",
            root / DATASET,
        )
    samples = _read_index(root / INDEX)
    if not samples:
        raise WeightsError("holds no samples; its report.json says why", root)
    return Dataset(root, facts, samples)


def _read_index(path: Path) -> list[Sample]:
    if not path.is_file():
        raise WeightsError("is missing: `mochi prepare` was stopped; run it again", path)
    samples: list[Sample] = []
    try:
        for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
            if line:
                samples.append(_sample(json.loads(line), path, number))
    except (OSError, ValueError) as error:
        raise WeightsError(f"is damaged: {error}", path) from error
    return samples


def _sample(row: object, path: Path, number: int) -> Sample:
    names = {field.name for field in fields(Sample)}
    if not isinstance(row, dict) or set(row) != names:
        raise WeightsError(f"line {number} is no sample", path)
    sample = Sample(**row)
    try:
        Bucket.parse(sample.bucket)
    except RequestError as error:
        raise WeightsError(f"line {number}: {error}", path) from error
    return sample


def _unusable(sample: Sample, why: str) -> WeightsError:
    return WeightsError(f"the sample {sample.name} cannot be used: {why}; prepare the clips again")
