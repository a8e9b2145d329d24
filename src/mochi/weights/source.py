"""What a path names, opened: every network that is in a file, in its shards, or in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mochi.core.errors import WeightsError
from mochi.weights.checkpoint import PARTS, Checkpoint, PartView
from mochi.weights.folder import ModelFiles
from mochi.weights.names import Part
from mochi.weights.targets import ModelSource
from mochi.weights.tensors import StrPath


@dataclass(frozen=True)
class Opened:
    """A model, or a part of one.

    Attributes:
        checkpoints: its files, each once.
        source: its networks, and what lies beside them.
    """

    checkpoints: tuple[Checkpoint, ...]
    source: ModelSource


def open_path(path: StrPath) -> Opened:
    """A file, an index of shards, or the folder of a model.

    Raises:
        WeightsError: nothing usable is there, or two files hold the same network.
    """
    place = Path(path)
    if place.is_dir():
        return open_files(ModelFiles.find(place))
    checkpoint = Checkpoint.open(place)
    return Opened((checkpoint,), ModelSource(dict(checkpoint.parts)))


def open_files(files: ModelFiles) -> Opened:
    """The model that a folder holds.

    Raises:
        WeightsError: as `open_path`.
    """
    opened: dict[tuple[Path, ...], Checkpoint] = {}
    parts: dict[Part, PartView] = {}
    for part in PARTS:
        paths = _paths(files, part)
        if paths and paths not in opened:
            opened[paths] = Checkpoint.open(paths)
        if paths:
            parts[part] = opened[paths].part(part)
    text = files.text_encoder
    config = text / "config.json" if text is not None else None
    source = ModelSource(
        parts,
        tokenizer=files.tokenizer,
        card=files.card,
        t5_config=config if config is not None and config.is_file() else None,
    )
    return Opened(tuple(opened.values()), source)


def _paths(files: ModelFiles, part: Part) -> tuple[Path, ...]:
    """The files of a part; none where the model has none."""
    try:
        return files.part(part)
    except WeightsError:
        if part in ("dit", "decoder"):
            raise
        return ()
