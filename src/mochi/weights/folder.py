"""Which files make a model: a folder of original files, or a diffusers folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mochi.core.errors import WeightsError
from mochi.weights.checkpoint import Checkpoint, PartView, Source
from mochi.weights.header import MAX_HEADER_BYTES
from mochi.weights.names import Part
from mochi.weights.shards import shards
from mochi.weights.tensors import StrPath
from mochi.weights.variants import WeightName, choose, parse

Layout = Literal["original", "diffusers"]

CARD = "mochi.json"
_ORIGINAL = {"dit": "dit.safetensors", "decoder": "decoder.safetensors"}
_ENCODER = "encoder.safetensors"
_STEM, _TEXT_STEM = "diffusion_pytorch_model", "model"
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        folder: where it was found.
        layout: how it is laid out.
        dit: the file of the transformer, or its shards in order.
        decoder: the file that holds the VAE's decoder.
        encoder: the file that holds the VAE's encoder (the decoder's, in a diffusers folder).
        text_encoder: the folder of the T5 encoder.
        tokenizer: the folder of its tokenizer.
        card: `mochi.json`, the model's own defaults.
    """

    folder: Path
    layout: Layout
    dit: tuple[Path, ...]
    decoder: Path
    encoder: Path | None
    text_encoder: Path | None
    tokenizer: Path | None
    card: Path | None

    @classmethod
    def find(cls, folder: StrPath, variant: str | None = None) -> ModelFiles:
        """Look through a folder. Where it holds both layouts, the original files are taken.

        Args:
            folder: the model's folder.
            variant: of a diffusers folder, such as `bf16`; None takes the plain files, or the
                only variant there is.

        Raises:
            WeightsError: no folder, no model in it, or shards missing; says what was looked for.
        """
        root = _existing_folder(folder)
        if all((root / name).is_file() for name in _ORIGINAL.values()):
            return cls._original(root)
        if (root / "transformer").is_dir() and (root / "vae").is_dir():
            return cls._diffusers(root, variant)
        raise WeightsError(
            f"holds no model: looked for {' and '.join(_ORIGINAL.values())}, or for the folders "
            f"transformer and vae; found {_contents(root)}",
            root,
        )

    @classmethod
    def _original(cls, root: Path) -> ModelFiles:
        return cls(
            folder=root,
            layout="original",
            dit=(root / _ORIGINAL["dit"],),
            decoder=root / _ORIGINAL["decoder"],
            encoder=_if_file(root / _ENCODER),
            **_companions(root),
        )

    @classmethod
    def _diffusers(cls, root: Path, variant: str | None) -> ModelFiles:
        vae = component_files(root / "vae", variant, fall_back=True)
        if len(vae) != 1:
            raise WeightsError(f"is in {len(vae)} shards; one file was expected", root / "vae")
        return cls(
            folder=root,
            layout="diffusers",
            dit=component_files(root / "transformer", variant),
            decoder=vae[0],
            encoder=vae[0],
            **_companions(root),
        )

    def part(self, part: Part) -> tuple[Path, ...]:
        """The files of one network.

        Raises:
            WeightsError: the folder has none (only the encoder may be absent).
        """
        if part == "dit":
            return self.dit
        if part == "t5":
            return component_files(self.text_parts()[0], stem=_TEXT_STEM)
        file = self.decoder if part == "decoder" else self.encoder
        if file is None:
            raise WeightsError(f"holds no {_ENCODER}, which this needs", self.folder)
        return (file,)

    def text_parts(self) -> tuple[Path, Path]:
        """The folders of the text encoder and of its tokenizer.

        Raises:
            WeightsError: one of them is missing; says where it belongs and how to get it.
        """
        for name, found in (("text_encoder", self.text_encoder), ("tokenizer", self.tokenizer)):
            if found is None:
                raise WeightsError(
                    f"holds no folder {name}; put a T5 v1.1 XXL {name.replace('_', ' ')} in the "
                    "Hugging Face form there, or fetch it with `mochi weights download`",
                    self.folder,
                )
        assert self.text_encoder is not None
        assert self.tokenizer is not None
        return self.text_encoder, self.tokenizer

    def weight_files(self) -> tuple[Path, ...]:
        """Every file that decides what the model makes, each once, in a fixed order."""
        files = [*self.dit, self.decoder]
        if self.encoder is not None and self.encoder != self.decoder:
            files.append(self.encoder)
        for folder, pattern in ((self.text_encoder, "*.safetensors"), (self.tokenizer, "*")):
            if folder is not None:
                files += sorted(p for p in folder.glob(pattern) if p.is_file())
        return tuple(files)

    def fingerprint(self) -> str:
        """A hash that tells models apart: 64 hex digits, the same wherever the folder lies.

        SHA-256 over names, sizes, headers, and 64 evenly spaced blocks of 64 KiB of every file:
        a second for 60 GB. It is no proof against forgery; `verify` compares whole files.
        """
        digest = hashlib.sha256()
        for path in self.weight_files():
            digest.update(path.relative_to(self.folder).as_posix().encode() + b"\0")
            for piece in _samples(path):
                digest.update(piece)
        return digest.hexdigest()


def open_part(part: Part, source: Source) -> PartView:
    """One part of a checkpoint or of a model folder.

    Raises:
        WeightsError: a file cannot be used at all, or nothing in it looks like this part.
    """
    return Checkpoint.open(_part_files(part, source)).part(part)


def component_files(
    folder: StrPath, variant: str | None = None, *, fall_back: bool = False, stem: str = _STEM
) -> tuple[Path, ...]:
    """The weights in a component of a diffusers folder, such as `vae/`: one file, or its shards.

    Args:
        folder: the component's folder.
        variant: as in `ModelFiles.find`.
        fall_back: take the plain files where the variant is absent.
        stem: how their names begin; that of the text encoder is `model`.

    Raises:
        WeightsError: no weights, not in this variant, or a shard is missing.
    """
    root = _existing_folder(folder)
    names = _weight_names(root, stem)
    chosen = choose(names, variant, fall_back=fall_back)
    fitting = [name for name, known in names.items() if known.variant == chosen]
    whole = [name for name in fitting if not (names[name].is_index or names[name].is_shard)]
    index = [name for name in fitting if names[name].is_index]
    if whole:
        return (root / whole[0],)
    if index:
        return shards(root / index[0])
    wanted = f"{stem}{'.' + variant if variant else ''}.safetensors"
    raise WeightsError(f"holds no {wanted} or index of its shards; found {_contents(root)}", root)


def is_component(folder: Path) -> bool:
    """Whether a folder is itself a `transformer/` or `vae/` of a diffusers folder."""
    return bool(_weight_names(folder))


# ----------------------------------------------------------------------------------------- helpers


def _part_files(part: Part, source: Source) -> Source:
    if not isinstance(source, (str, os.PathLike)) or not Path(source).is_dir():
        return source
    path = Path(source)
    if (path / f"{part}.safetensors").is_file():  # the other original files need not be here
        return path / f"{part}.safetensors"
    return component_files(path) if is_component(path) else ModelFiles.find(path).part(part)


def _weight_names(root: Path, stem: str = _STEM) -> dict[str, WeightName]:
    known = {path.name: parse(path.name) for path in sorted(root.iterdir())}
    return {name: found for name, found in known.items() if found and found.stem == stem}


def _companions(root: Path) -> dict[str, Path | None]:
    return {
        "text_encoder": _if_folder(root / "text_encoder"),
        "tokenizer": _if_folder(root / "tokenizer"),
        "card": _if_file(root / CARD),
    }


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _if_folder(path: Path) -> Path | None:
    return path if path.is_dir() else None


def _existing_folder(folder: StrPath) -> Path:
    path = Path(folder)
    try:
        if not path.is_dir():
            raise WeightsError(
                "is a file, not a folder" if path.exists() else "does not exist", path
            )
    except OSError as error:  # a loop of symbolic links, a name too long
        raise WeightsError(f"cannot be read: {error.strerror or error}", path) from error
    return path


def _contents(root: Path) -> str:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return shown or "nothing"


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    yield size.to_bytes(8, "little")
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            header_bytes = int.from_bytes(file.read(8), "little")
            yield file.read(min(header_bytes, MAX_HEADER_BYTES))
        for start in _starts(size):
            file.seek(start)
            yield file.read(_SAMPLE_BYTES)


def _starts(size: int) -> Iterable[int]:
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return range(0, size, _SAMPLE_BYTES)
    step = (size - _SAMPLE_BYTES) / (_SAMPLES - 1)
    return (int(i * step) for i in range(_SAMPLES))
