"""From one layout to another, from file to file: a plan first, then tensor after tensor.

What is in memory at once is one tensor of the source, some rows of it in the target's form, and
nothing else: 40 GB pass through a process of a few hundred MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from mochi.core.errors import OutputError, RequestError, WeightsError
from mochi.weights.names import Part
from mochi.weights.targets import (
    Forget,
    ModelSource,
    Quantisation,
    Work,
    comfy_files,
    diffusers_files,
    gguf_files,
    original_files,
)
from mochi.weights.variants import parse
from mochi.weights.write import OnProgress, PlannedFile, write_files

Target = Literal["original", "diffusers", "comfy", "gguf"]

TARGETS: tuple[Target, ...] = get_args(Target)
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
SHARD_BYTES = 10_000_000_000
_QUANTISATIONS: dict[Target, tuple[Quantisation, ...]] = {
    "original": ("q8_0", "q4_0", "fp8"),
    "diffusers": (),
    "comfy": ("fp8",),
    "gguf": ("q8_0", "q4_0"),
}
_ONE_FILE = (".safetensors", ".gguf")
# By these a folder holds a whole model of another layout; two in one would hide each other.
_SIGNS: dict[Target, str] = {"original": "dit.safetensors", "diffusers": "model_index.json"}


@dataclass(frozen=True)
class Wishes:
    """What a conversion shall make.

    Attributes:
        to: the layout.
        dtype: `float32`, `bfloat16` or `float16` for all that is not quantised; None keeps what
            is there. `pos_frequencies` is never narrower than float32, unless kept so.
        quantize: how the linear layers of the blocks are kept; None is as `dtype`.
        marking: how ComfyUI's float8 is marked: `old`, which it has always read, or `new`.
        parts: which networks; None takes all that the source has.
        all_in_one: ComfyUI's single file with prefixes.
        shard_bytes: the largest file of a diffusers component.

    Raises:
        RequestError: an unknown word, or two that do not go together.
    """

    to: Target
    dtype: str | None = None
    quantize: Quantisation | None = None
    marking: Literal["old", "new"] = "old"
    parts: tuple[Part, ...] | None = None
    all_in_one: bool = False
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        _check_word("to", self.to, TARGETS)
        _check_word("marking", self.marking, ("old", "new"))
        if self.dtype is not None:
            _check_word("dtype", self.dtype, ("keep", *DTYPES))
        for part in self.parts or ():
            _check_word("parts", part, get_args(Part))
        allowed = _QUANTISATIONS[self.to]
        if self.quantize is not None and self.quantize not in allowed:
            others = [to for to, known in _QUANTISATIONS.items() if self.quantize in known]
            raise RequestError(
                "quantize",
                self.quantize,
                f"is not possible to {self.to}, which keeps {' and '.join(allowed) or 'none'}",
                " or ".join(f"to {to}" for to in others) or "q8_0, q4_0, fp8",
            )
        if self.all_in_one and self.to != "comfy":
            raise RequestError("all_in_one", True, f"is not possible to {self.to}", "to comfy")
        if self.shard_bytes < 1:
            raise RequestError("shard_bytes", self.shard_bytes, "holds nothing", SHARD_BYTES)


@dataclass(frozen=True)
class Conversion:
    """A conversion that can be started.

    Attributes:
        folder: where the files go.
        files: what will be written.
        notes: what the user should know, one line each.
    """

    folder: Path
    files: tuple[PlannedFile, ...]
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.nbytes for file in self.files)

    def write(self, overwrite: bool = False, on_progress: OnProgress | None = None) -> None:
        """Write all files, or none.

        Raises:
            OutputError: a file exists, or the disk refuses.
            WeightsError: a value has no place in the form that was asked for.
        """
        write_files(self.folder, self.files, overwrite, tuple(self._obsolete()), on_progress)

    def _obsolete(self) -> Iterator[str]:
        """Files of an earlier conversion that would be taken for part of this one."""
        new = {file.name for file in self.files}
        stems = {}
        for name in new:
            folder, _, plain = name.rpartition("/")
            if (known := parse(plain)) is not None:
                stems[folder, known.stem] = known.variant
        for folder in {folder for folder, _ in stems}:
            place = self.folder / folder
            for path in place.iterdir() if place.is_dir() else ():
                known, name = parse(path.name), f"{folder}/{path.name}".lstrip("/")
                if known and stems.get((folder, known.stem)) == known.variant and name not in new:
                    yield name


def plan_conversion(
    source: ModelSource, destination: Path, wishes: Wishes, forget: Forget | None = None
) -> Conversion:
    """See what a conversion would write; every name and shape is checked, no number is read.

    Args:
        source: what is converted.
        destination: a folder; or a file (.safetensors, .gguf), where all fits in one.
        wishes: what shall come out.
        forget: gives back the memory of tensors that lie in mapped files.

    Raises:
        WeightsError: the source is damaged, has no such part, or keeps its weights in a form that
            the target cannot hold.
        OutputError: the destination is a file and more than one is needed, or it holds a model
            in another layout.
    """
    chosen = _chosen(source, wishes.parts)
    if not chosen.parts:
        raise WeightsError("holds no part of Mochi (adapters are for `mochi lora convert`)")
    for view in chosen.parts.values():
        view.check()
    work = Work(
        source=chosen,
        dtype=DTYPES.get(wishes.dtype or ""),
        quantize=wishes.quantize,
        marking=wishes.marking,
        shard_bytes=wishes.shard_bytes,
        forget=forget or _keep,
    )
    files = tuple(_files(work, wishes))
    notes = tuple(work.notes)
    if destination.suffix in _ONE_FILE and not destination.is_dir():
        return Conversion(destination.parent, (_single(files, destination),), notes)
    for layout, sign in _SIGNS.items():
        if layout != wishes.to and (destination / sign).exists():
            raise OutputError(f"{destination}: holds a model in the layout {layout} already")
    return Conversion(destination, files, notes)


def _files(work: Work, wishes: Wishes) -> Iterator[PlannedFile]:
    if wishes.to == "comfy":
        return comfy_files(work, wishes.all_in_one)
    makers = {"original": original_files, "diffusers": diffusers_files, "gguf": gguf_files}
    return makers[wishes.to](work)


def _chosen(source: ModelSource, parts: tuple[Part, ...] | None) -> ModelSource:
    if parts is None:
        if source.problems:
            raise WeightsError(f"{source.problems[0]}; with --parts the others can be converted")
        return source
    for part in parts:
        if part not in source.parts:
            raise WeightsError(f"holds no {part}; it has {', '.join(source.parts) or 'nothing'}")
    kept = {part: source.parts[part] for part in source.parts if part in parts}
    text = "t5" in parts
    return replace(
        source,
        parts=kept,
        tokenizer=source.tokenizer if text else None,
        t5_config=source.t5_config if text else None,
    )


def _single(files: tuple[PlannedFile, ...], destination: Path) -> PlannedFile:
    """The one file of weights, under the name that was asked for."""
    weights = [file for file in files if file.name.endswith(_ONE_FILE)]
    if len(weights) != 1:
        raise OutputError(
            f"{destination}: names one file, and {len(weights)} are needed "
            f"({', '.join(file.name for file in weights)}); name a folder, or fewer --parts"
        )
    [file] = weights
    wanted = Path(file.name).suffix
    if destination.suffix != wanted:
        raise OutputError(f"{destination}: these weights are a {wanted} file")
    return replace(file, name=destination.name)


def _check_word(field: str, value: object, known: Iterable[str]) -> None:
    if value not in tuple(known):
        raise RequestError(field, value, "is unknown", ", ".join(known))


def _keep(tensors: Iterable[Tensor]) -> None:
    """The system drops pages of files by itself when it needs them."""
