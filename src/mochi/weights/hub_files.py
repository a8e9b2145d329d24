"""Which files of a hub repository to fetch, and what is known of them beforehand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, Protocol

from mochi.core.errors import DownloadError
from mochi.weights.variants import choose, parse

ModelPart = Literal["dit", "decoder", "encoder", "text_encoder", "tokenizer"]
PARTS: tuple[ModelPart, ...] = ("dit", "decoder", "encoder", "text_encoder", "tokenizer")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
# Beside the weights: what the folder's user should be able to read.
_ALWAYS = re.compile(r"(README\.md|LICEN[SC]E[^/]*|NOTICE|mochi\.json)", re.IGNORECASE)
_DIFFUSERS_FOLDERS = {"dit": "transformer", "decoder": "vae", "encoder": "vae"}
_COMFY_FOLDERS: Mapping[ModelPart, tuple[str, ...]] = {
    "dit": ("diffusion_models", "unet"),
    "decoder": ("vae",),
    "encoder": ("vae",),
    "text_encoder": ("text_encoders", "clip"),
    "tokenizer": (),
}
WEIGHT_ENDINGS = (".safetensors", ".sft", ".gguf")
_PREFERRED = ("bf16", "fp16", "fp8_scaled", "q8_0")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".msgpack", ".h5")


class Hash(Protocol):
    """What `hashlib` gives."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        name: its path in the repository, with forward slashes.
        size: in bytes.
        checksum: 64 hex digits: SHA-256 of the content (large files); 40: the git blob id, which
            is SHA-1 of `blob SIZE`, a zero byte and the content.
    """

    name: str
    size: int
    checksum: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.name)
        if path.is_absolute() or ".." in path.parts or "\\" in self.name or ":" in self.name:
            raise DownloadError(f"the hub lists a file outside its repository: {self.name[:80]!r}")
        if not (_SHA256.fullmatch(self.checksum) or _SHA1.fullmatch(self.checksum)):
            raise DownloadError(f"the hub lists {self.name} without a checksum")

    def new_hash(self) -> Hash:
        """A hash that gives `checksum` when it has seen the right content."""
        return hash_for(self.checksum, self.size)


def hash_for(checksum: str, size: int) -> Hash:
    """The kind of hash that a checksum is, ready for a file of `size` bytes."""
    if len(checksum) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def select(
    names: Sequence[str], parts: Iterable[ModelPart], variant: str | None = None
) -> dict[str, list[str]]:
    """The files to fetch, by part; key "" holds what goes with all of them.

    A repository with several layouts gives its original files, else those of diffusers, else those
    of ComfyUI. Of several precisions one is taken. A part that the repository lacks has an empty
    list. Names are all that is known before a download; afterwards it is content that counts.
    """
    names = list(names)
    chosen: dict[str, list[str]] = {"": [n for n in names if _ALWAYS.fullmatch(n)]}
    if _is_diffusers(names):
        chosen[""] += [n for n in names if n == "model_index.json" or n.startswith("scheduler/")]
    for part in parts:
        chosen[part] = _of_part(names, part, variant)
    return chosen


def _is_diffusers(names: Sequence[str]) -> bool:
    original = {"dit.safetensors", "decoder.safetensors"} <= set(names)
    return not original and any(name.startswith("transformer/") for name in names)


def _of_part(names: Sequence[str], part: ModelPart, variant: str | None) -> list[str]:
    if part in _DIFFUSERS_FOLDERS and not _is_diffusers(names):
        whole = [name for name in names if name == f"{part}.safetensors"]
        return whole or _comfy(names, part, variant)
    folder = _folder(names, _DIFFUSERS_FOLDERS.get(part, part), variant)
    found = folder or _comfy(names, part, variant)
    if part == "text_encoder" and not found and not _of_part(names, "dit", variant):
        return _at_root(names, variant)
    return found


def _at_root(names: Sequence[str], variant: str | None) -> list[str]:
    """The text encoder of a repository that holds nothing else: `model.safetensors` or shards."""
    known = {name: parse(name) for name in names if "/" not in name}
    weights = [name for name, found in known.items() if found and found.stem == "model"]
    chosen = choose(weights, variant)
    taken = [name for name in weights if (w := known[name]) and w.variant == chosen]
    return [*(name for name in names if name == "config.json"), *taken] if taken else []


def _comfy(names: Sequence[str], part: ModelPart, variant: str | None) -> list[str]:
    """One file of the folder in which ComfyUI keeps such a part, the most precise that is usual."""
    places = [f"{top}{folder}" for top in ("", "split_files/") for folder in _COMFY_FOLDERS[part]]
    inside = [
        name
        for name in names
        if name.rpartition("/")[0] in places and name.endswith(WEIGHT_ENDINGS)
    ]
    for wanted in (variant, *_PREFERRED):
        fitting = [name for name in inside if wanted and wanted.lower() in name.lower()]
        if fitting:
            return fitting[:1]
    return inside[:1]


def _folder(names: Iterable[str], folder: str, variant: str | None) -> list[str]:
    inside = [name for name in names if name.startswith(f"{folder}/") and name.count("/") == 1]
    base = {name: name.partition("/")[2] for name in inside}
    chosen = choose(base.values(), variant)
    kept = []
    for name in inside:
        weights = parse(base[name])
        if weights is not None:
            wanted = weights.variant == chosen
        else:
            wanted = not name.endswith((*_OTHER_WEIGHTS, ".index.json"))
        if wanted:
            kept.append(name)
    return kept
