"""Which files make a model: whatever is in a folder, a file, or named part by part."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mochi.core.errors import WeightsError
from mochi.weights.candidates import Found, look
from mochi.weights.checkpoint import PARTS, Checkpoint, PartView, Source, source_files
from mochi.weights.choice import choose_parts, only
from mochi.weights.header import MAX_HEADER_BYTES
from mochi.weights.names import Part
from mochi.weights.networks import ARTICLES
from mochi.weights.tensors import StrPath

Given = Mapping[Part, tuple[Path, ...]]
"""Files that were named for parts; nothing else is looked for there."""

CARD = "mochi.json"
VOCABULARIES = ("tokenizer.json", "spiece.model")
_DIFFUSERS = ("transformer", "vae")
_COMFY = ("diffusion_models", "unet", "vae", "text_encoders", "clip", "checkpoints", "all_in_one")
_REPACKAGED = "split_files"
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        folder: where it was found.
        layout: whose names the transformer's tensors have: `original`, `diffusers`.
        description: the layout in one line: what is where, and stored how.
        parts: files of each network, shards in order. The decoder and the encoder may share one,
            and so may all.
        tokenizer: the folder of the tokenizer, if it was found.
        card: `mochi.json`, the model's own defaults.
        t5_config: `config.json` of the text encoder; None has its sizes read off the shapes.
        problems: why files that look like weights could not be used.
    """

    folder: Path
    layout: str
    description: str
    parts: Given
    tokenizer: Path | None = None
    card: Path | None = None
    t5_config: Path | None = None
    problems: tuple[str, ...] = ()

    @classmethod
    def find(
        cls,
        place: StrPath,
        variant: str | None = None,
        given: Given | None = None,
        tokenizer: Path | None = None,
    ) -> ModelFiles:
        """Look through a folder, or start from a file.

        Of two complete models, the one with the published names is taken. What a file lacks is
        looked for beside it.

        Args:
            place: a folder with original, diffusers or ComfyUI files, or one file.
            variant: of files that are there in several precisions, such as `bf16`; None takes the
                plain ones, or the only ones there are.
            given: files of parts that were named, which are not looked for.
            tokenizer: its folder, where that was named.

        Raises:
            WeightsError: nothing there, no model in it, two candidates for a part, layouts that do
                not mix, or shards missing; says what to name.
        """
        root = Path(place)
        known = dict(given or {})
        if _is_folder(root):
            opened = _open_given(known)
        else:
            checkpoint = Checkpoint.open(root)
            _refuse_nothing(checkpoint)
            paths = tuple(source_files(root))
            known = dict.fromkeys(checkpoint.parts, paths) | known
            opened = {paths: checkpoint} | _open_given(known)
            root = root.parent
        choice = choose_parts(root, *_looked_through(root, variant), known, opened)
        text = choice.paths.get("t5", ())
        return cls(
            folder=root,
            layout=choice.layout,
            description=choice.description,
            parts=choice.paths,
            tokenizer=tokenizer or _tokenizer(root, text),
            card=_if_file(root / CARD),
            t5_config=_t5_config(text[0].parent / "config.json") if text else None,
            problems=choice.problems,
        )

    @property
    def dit(self) -> tuple[Path, ...]:
        """The transformer's files."""
        return self.parts["dit"]

    @property
    def encoder(self) -> Path | None:
        """The file with the VAE's encoder."""
        return next(iter(self.parts.get("encoder", ())), None)

    @property
    def text_encoder(self) -> Path | None:
        """The folder of the text encoder where it has a config of its own, else its file."""
        if self.t5_config is not None:
            return self.t5_config.parent
        return next(iter(self.parts.get("t5", ())), None)

    def part(self, part: Part) -> tuple[Path, ...]:
        """The files of one network.

        Raises:
            WeightsError: the model has none (the encoder and T5 may be absent).
        """
        if part in self.parts:
            return self.parts[part]
        if self.problems:
            raise WeightsError(self.problems[0])
        option = {"t5": "--text-encoder", "dit": "--dit"}.get(part, "--vae")
        where = " (in text_encoder or beside the others)" if part == "t5" else ""
        raise WeightsError(
            f"holds no file with {ARTICLES[part]}{where}, which this needs; name one with "
            f"{option}, or fetch one with `mochi weights download`",
            self.folder,
        )

    def tokenizer_folder(self) -> Path:
        """The folder of the tokenizer.

        Raises:
            WeightsError: it is missing; says where it belongs and how to get it.
        """
        if self.tokenizer is None:
            raise WeightsError(
                "holds no folder tokenizer; name that of T5 v1.1 XXL with --tokenizer (a folder, "
                "or google/t5-v1_1-xxl on the hub), or fetch one with `mochi weights download`",
                self.folder,
            )
        return self.tokenizer

    def weight_files(self) -> tuple[Path, ...]:
        """Every file that decides what the model makes, each once, in a fixed order."""
        files = [path for part in PARTS for path in self.parts.get(part, ())]
        if self.tokenizer is not None:
            files += sorted(path for path in self.tokenizer.glob("*") if path.is_file())
        return tuple(dict.fromkeys(files))

    def fingerprint(self) -> str:
        """A hash that tells models apart: 64 hex digits, the same wherever the folder lies.

        SHA-256 over names, sizes, headers, and 64 evenly spaced blocks of 64 KiB of every file:
        a second for 60 GB. It is no proof against forgery; `verify` compares whole files.
        """
        digest = hashlib.sha256()
        for path in self.weight_files():
            inside = path.is_relative_to(self.folder)
            name = path.relative_to(self.folder).as_posix() if inside else path.name
            digest.update(name.encode() + b"\0")
            for piece in _samples(path):
                digest.update(piece)
        return digest.hexdigest()


def open_part(part: Part, source: Source) -> PartView:
    """One part of a checkpoint or of a model folder, of which the rest need not be there.

    Raises:
        WeightsError: a file cannot be used at all, or nothing in it looks like this part.
    """
    if not isinstance(source, (str, os.PathLike)) and not source:
        raise WeightsError(f"no files were given for the {part}")
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        return Checkpoint.open(part_files(part, source)).part(part)
    return Checkpoint.open(source).part(part)


def part_files(part: Part, place: StrPath) -> tuple[Path, ...]:
    """The files of one part, in a file or in a folder that need not hold a whole model.

    Raises:
        WeightsError: it is not there, or more than once.
    """
    root = Path(place)
    if not _is_folder(root):
        checkpoint = Checkpoint.open(root)
        checkpoint.part(part)
        return checkpoint.contents.paths
    here, below, text = _looked_through(root, None)
    for found in (here, text if part == "t5" else below, below):
        if found.has(part):
            return only(root, part, found.candidates[part]).paths
    problems = here.errors + below.errors + text.errors
    if problems:
        raise problems[0]
    raise WeightsError(f"holds no file with {ARTICLES[part]}", root)


def everything(root: Path) -> Found:
    """All parts of models that lie in a folder, and the files that should be some and are not."""
    found = Found()
    for place in _looked_through(root, None):
        found.extend(place)
    return found


# ----------------------------------------------------------------------------------------- helpers


def _looked_through(root: Path, variant: str | None) -> tuple[Found, Found, Found]:
    """What lies in a folder, in the folders that models keep inside it, and in `text_encoder`."""
    places = [root / _REPACKAGED / name for name in _COMFY] + [root / name for name in _COMFY]
    below = Found()
    for place in dict.fromkeys([*places, *(root / name for name in _DIFFUSERS)]):
        below.extend(look(place, root, variant))
    return look(root, root, variant), below, look(root / "text_encoder", root, variant)


def _open_given(given: Given) -> dict[tuple[Path, ...], Checkpoint]:
    opened: dict[tuple[Path, ...], Checkpoint] = {}
    for part, paths in given.items():
        if paths not in opened:
            opened[paths] = Checkpoint.open(paths)
        opened[paths].part(part)
    return opened


def _refuse_nothing(checkpoint: Checkpoint) -> None:
    if not checkpoint.parts:
        checkpoint.part("dit")  # says what it is instead


def _tokenizer(root: Path, text_encoder: tuple[Path, ...]) -> Path | None:
    """The folder `tokenizer` of the model or beside the text encoder, or the latter's own."""
    places = [root / "tokenizer"]
    for path in text_encoder[:1]:
        places += [path.parent / "tokenizer", path.parent.parent / "tokenizer", path.parent]
    return next((place for place in places if is_tokenizer(place)), None)


def is_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a vocabulary."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _t5_config(path: Path) -> Path | None:
    """The config beside a text encoder, if it is its own and not that of another model."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return path if path.is_file() else None
    foreign = isinstance(content, dict) and content.get("model_type", "t5") != "t5"
    return None if foreign and path.parent.name != "text_encoder" else path


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise WeightsError("does not exist", path) from None
    except (OSError, ValueError) as error:  # a loop of links, a name too long or with a NUL
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"cannot be read: {reason}", path) from error


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
