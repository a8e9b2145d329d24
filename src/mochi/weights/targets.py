"""The layouts that can be written: which files, which names in them, which forms of the weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mochi.core.errors import WeightsError
from mochi.model.stored import StoredWeight
from mochi.weights import configs, encode
from mochi.weights.checkpoint import PartView
from mochi.weights.encode import FP8_KIND, SCALED_KIND, Container
from mochi.weights.folder import CARD
from mochi.weights.layouts import (
    DIFFUSERS_DECODER,
    DIFFUSERS_DIT,
    DIFFUSERS_ENCODER,
    ORIGINAL_DECODER,
    ORIGINAL_DIT,
    ORIGINAL_ENCODER,
    T5,
    T5_LLAMA_CPP,
)
from mochi.weights.loading import ALWAYS_FLOAT32
from mochi.weights.names import Part, Table
from mochi.weights.networks import expected_shapes
from mochi.weights.quantize import BLOCK_FORMS, is_quantised
from mochi.weights.stored import Stored, dtype_name
from mochi.weights.write import Piece, PlannedFile, copied_file, text_file
from mochi.weights.write_gguf import gguf_file
from mochi.weights.write_safetensors import safetensors_file, safetensors_shards

Forget = Callable[[Iterable[Tensor]], object]
"""Gives back the memory of tensors that lie in mapped files; they stay valid."""

Quantisation = Literal["q8_0", "q4_0", "fp8"]

PREFIXES: Mapping[Part, str] = {
    "dit": "model.diffusion_model.",
    "decoder": "vae.decoder.",
    "encoder": "vae.encoder.",
    "t5": "text_encoders.t5xxl.transformer.",
}
"""ComfyUI's, in an all-in-one file."""

_PUBLISHED: Mapping[Part, Table] = {
    "dit": ORIGINAL_DIT,
    "decoder": ORIGINAL_DECODER,
    "encoder": ORIGINAL_ENCODER,
    "t5": T5,
}
_LABELS = {
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    FP8_KIND: "fp8_e4m3fn",
    SCALED_KIND: "fp8_scaled",
}
_STEM = "diffusion_pytorch_model"


@dataclass(frozen=True)
class ModelSource:
    """What is converted.

    Attributes:
        parts: the networks.
        tokenizer: the folder of the tokenizer.
        card: `mochi.json`.
        t5_config: the text encoder's `config.json`.
        problems: why files beside these could not be used.
    """

    parts: Mapping[Part, PartView]
    tokenizer: Path | None = None
    card: Path | None = None
    t5_config: Path | None = None
    problems: tuple[str, ...] = ()


@dataclass
class Work:
    """A conversion on its way: where from, and how the weights shall be kept.

    Attributes:
        source: what is converted.
        dtype: of all that is not quantised; None keeps what is there.
        quantize: the form of the linear layers; None keeps what is there, or is `dtype`.
        marking: of scaled float8.
        shard_bytes: files that come in shards are no larger.
        forget: see `Forget`.
        notes: what the user should know, filled on the way.
    """

    source: ModelSource
    dtype: torch.dtype | None
    quantize: Quantisation | None
    marking: Literal["old", "new"]
    shard_bytes: int
    forget: Forget
    notes: list[str] = field(default_factory=list)

    def kind(self, part: Part, name: str, stored: Stored, container: Container) -> str:
        """How one tensor of ours shall be kept."""
        wanted = self._quantised_kind(container) if is_quantised(part, name) else None
        form = BLOCK_FORMS.get(wanted or "")
        if wanted is not None and (form is None or form.fits(stored.shape)):
            return wanted
        if self.dtype is None:
            return stored.kind
        return "float32" if name in ALWAYS_FLOAT32 else dtype_name(self.dtype)

    def _quantised_kind(self, container: Container) -> str | None:
        if self.quantize == "fp8":
            return SCALED_KIND if container.marking else FP8_KIND if container.float8 else None
        return self.quantize if self.quantize in container.blocks else None

    def pieces(
        self, part: Part, container: Container, table: Table | None = None, prefix: str = ""
    ) -> list[Piece]:
        """All tensors of a part as a file keeps them; empty where the source has no such part.

        Raises:
            WeightsError: the file cannot hold what shall be kept.
        """
        view = self.source.parts.get(part)
        if view is None:
            return []
        names = (table or _PUBLISHED[part]).from_ours(view.shapes)
        reader = _Reader(view, self.forget)
        pieces: list[Piece] = []
        marked = False
        for name in expected_shapes(part, view.config):  # one order, whatever the source's is
            stored = view.read(name)
            kind = self.kind(part, name, stored, container)
            marked |= kind == SCALED_KIND and container.marking == "old"
            try:
                pieces += encode.encode(container, names, name, stored, kind, reader.of(name))
            except WeightsError as error:
                raise WeightsError(str(error), view.label) from None
        if marked:
            pieces.append(encode.old_marker(""))
        return [replace(piece, name=f"{prefix}{piece.name}") for piece in pieces]

    def label(self, part: Part, container: Container) -> str:
        """The form of most weights, as file names have it: `bf16`, `fp8_scaled`, `q4_0`."""
        view = self.source.parts[part]
        count: Counter[str] = Counter()
        for name, shape in view.shapes.items():
            count[self.kind(part, name, view.read(name), container)] += prod(shape)
        [(kind, _)] = count.most_common(1)
        return _LABELS.get(kind, kind)


class _Reader:
    """Reads tensors of ours one after another, and keeps no more than the last."""

    def __init__(self, view: PartView, forget: Forget):
        self._view = view
        self._forget = forget
        self._name = ""
        self._held: StoredWeight | None = None

    def of(self, name: str) -> encode.Load:
        """The function that reads this tensor."""
        return lambda: self._get(name)

    def _get(self, name: str) -> StoredWeight:
        if self._held is None or self._name != name:
            self._drop()
            self._name, self._held = name, self._view.read(name).load(False)
        return self._held

    def _drop(self) -> None:
        if self._held is not None:
            for source in self._view.names.sources(self._name).names:
                self._forget(self._view.tensors[source].raw.values())
            self._held = None


# ----------------------------------------------------------------------------------------- layouts


def original_files(work: Work) -> Iterator[PlannedFile]:
    """`dit.safetensors`, `decoder.safetensors`, `encoder.safetensors`, and T5's folder."""
    for part in ("dit", "decoder", "encoder"):
        if pieces := work.pieces(part, encode.ORIGINAL):
            yield safetensors_file(f"{part}.safetensors", pieces)
    yield from _text_encoder(work)
    yield from _companions(work)


def diffusers_files(work: Work) -> Iterator[PlannedFile]:
    """A folder for each component, with its config, and `model_index.json` above them."""
    views = work.source.parts
    sizes: dict[str, Any] = {p: views[p].config if p in views else None for p in _PUBLISHED}
    components = []
    if pieces := work.pieces("dit", encode.DIFFUSERS, DIFFUSERS_DIT):
        components.append("transformer")
        yield from safetensors_shards(f"transformer/{_STEM}", pieces, work.shard_bytes)
        yield _json("transformer/config.json", configs.transformer_config(sizes["dit"]))
    vae = work.pieces("encoder", encode.DIFFUSERS, DIFFUSERS_ENCODER)
    vae += work.pieces("decoder", encode.DIFFUSERS, DIFFUSERS_DECODER)
    if vae:
        components.append("vae")
        yield safetensors_file(f"vae/{_STEM}.safetensors", vae)
        yield _json("vae/config.json", configs.vae_config(sizes["encoder"], sizes["decoder"]))
    components += ["text_encoder"] if "t5" in views else []
    components += ["tokenizer"] if work.source.tokenizer else []
    yield from _text_encoder(work)
    yield _json("scheduler/scheduler_config.json", configs.scheduler_config())
    index = configs.model_index([*components, "scheduler"], _tokenizer_class(work.source.tokenizer))
    yield _json("model_index.json", index)
    yield from _companions(work)
    reasons = configs.cannot_build(sizes["dit"], sizes["encoder"], sizes["decoder"])
    work.notes += [f"diffusers itself cannot load this: {reason}" for reason in reasons]


def comfy_files(work: Work, all_in_one: bool = False) -> Iterator[PlannedFile]:
    """ComfyUI's split files, or one with prefixes."""
    container = encode.COMFY_OLD if work.marking == "old" else encode.COMFY_NEW
    views = work.source.parts
    if all_in_one:
        main: Part = "dit" if "dit" in views else next(iter(views))
        pieces = [p for part in views for p in work.pieces(part, container, None, PREFIXES[part])]
        yield safetensors_file(f"mochi_{work.label(main, container)}.safetensors", pieces)
    else:
        if pieces := work.pieces("dit", container):
            yield safetensors_file(f"mochi_{work.label('dit', container)}.safetensors", pieces)
        yield from _comfy_vae(work, container)
        if pieces := work.pieces("t5", container):
            yield safetensors_file(f"t5xxl_{work.label('t5', container)}.safetensors", pieces)
    yield from _companions(work)


def gguf_files(work: Work) -> Iterator[PlannedFile]:
    """The transformer and T5 as .gguf; the VAE as ComfyUI has it, for which there is no .gguf."""
    if pieces := work.pieces("dit", encode.GGUF):
        yield gguf_file(f"mochi_{work.label('dit', encode.GGUF)}.gguf", pieces)
    yield from _comfy_vae(work, encode.COMFY_OLD)
    if pieces := work.pieces("t5", encode.GGUF, T5_LLAMA_CPP):
        size = work.source.parts["t5"].config
        name = f"t5xxl_{work.label('t5', encode.GGUF)}.gguf"
        yield gguf_file(name, pieces, configs.t5_metadata(size))
    yield from _companions(work)


def _comfy_vae(work: Work, container: Container) -> Iterator[PlannedFile]:
    pieces = work.pieces("encoder", container, None, "encoder.")
    pieces += work.pieces("decoder", container, None, "decoder.")
    if pieces:
        yield safetensors_file("mochi_vae.safetensors", pieces)


def _text_encoder(work: Work) -> Iterator[PlannedFile]:
    pieces = work.pieces("t5", encode.HUGGING_FACE)
    if pieces:
        yield from safetensors_shards("text_encoder/model", pieces, work.shard_bytes)
        yield _json("text_encoder/config.json", _t5_config(work))


def _t5_config(work: Work) -> dict[str, Any]:
    path, dtype = work.source.t5_config, work.label("t5", encode.HUGGING_FACE)
    kind = next(kind for kind, label in _LABELS.items() if label == dtype)
    if path is None:
        return configs.t5_config(work.source.parts["t5"].config) | {"dtype": kind}
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot be read as a T5 config: {error}", path) from error
    known.pop("torch_dtype", None)
    return known | {"dtype": kind}


def _tokenizer_class(folder: Path | None) -> str:
    """What its own config says, else T5's."""
    try:
        known = json.loads((folder / "tokenizer_config.json").read_text("utf-8")) if folder else {}
        return str(known.get("tokenizer_class") or configs.T5_TOKENIZER)
    except (OSError, ValueError, AttributeError):
        return configs.T5_TOKENIZER


def _companions(work: Work) -> Iterator[PlannedFile]:
    """What goes along as it is: the tokenizer, and the model's card."""
    if work.source.tokenizer is not None:
        for path in sorted(p for p in work.source.tokenizer.iterdir() if p.is_file()):
            yield copied_file(f"tokenizer/{path.name}", path)
    if work.source.card is not None:
        yield copied_file(CARD, work.source.card)


def _json(name: str, content: Mapping[str, Any]) -> PlannedFile:
    return text_file(name, json.dumps(content, indent=2) + "\n")
