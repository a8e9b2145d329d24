"""What a path names, opened: every network that is in a file, in its shards, or in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mochi.core.errors import WeightsError
from mochi.weights.checkpoint import PARTS, Checkpoint, PartView
from mochi.weights.folder import ModelFiles, everything
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
    """A file, an index of shards, the folder of a model, or one with some of its parts.

    Raises:
        WeightsError: nothing usable is there, or two files hold the same network.
    """
    place = Path(path)
    if not place.is_dir():
        checkpoint = Checkpoint.open(place)
        return Opened((checkpoint,), ModelSource(dict(checkpoint.parts)))
    try:
        return open_files(ModelFiles.find(place))
    except WeightsError:
        opened = _parts_in(place)
        if opened is None:
            raise
        return opened


def open_files(files: ModelFiles) -> Opened:
    """The model that a folder holds.

    Raises:
        WeightsError: as `open_path`.
    """
    opened: dict[tuple[Path, ...], Checkpoint] = {}
    parts: dict[Part, PartView] = {}
    for part, paths in files.parts.items():
        if paths not in opened:
            opened[paths] = Checkpoint.open(paths)
        parts[part] = opened[paths].part(part)
    source = ModelSource(parts, files.tokenizer, files.card, files.t5_config, files.problems)
    return Opened(tuple(opened.values()), source)


def _parts_in(folder: Path) -> Opened | None:
    """Parts that make no whole model, such as those of `transformer/`; None where one is there
    twice, none at all, or a file is broken."""
    found = everything(folder)
    candidates = found.candidates
    if not candidates or found.errors or any(len(files) > 1 for files in candidates.values()):
        return None
    checkpoints = {part: files[0].checkpoint for part, files in candidates.items()}
    parts = {part: checkpoints[part].parts[part] for part in PARTS if part in checkpoints}
    return Opened(tuple(dict.fromkeys(checkpoints.values())), ModelSource(parts))
