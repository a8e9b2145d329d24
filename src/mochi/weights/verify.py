"""Whether the files of a model are what they should be: content by checksum, tensors by shape."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mochi.core.config import MOCHI_1, T5Size
from mochi.core.errors import WeightsError
from mochi.weights.checkpoint import Checkpoint, PartView
from mochi.weights.folder import ModelFiles, everything, open_part
from mochi.weights.hub_places import file_checksum, read_record
from mochi.weights.names import Part

StrPath = str | os.PathLike[str]

OnProgress = Callable[[str, int, int], None]
"""Called with a file's name, and bytes read and to read over all files."""

_PUBLISHED = (MOCHI_1.dit, MOCHI_1.decoder, MOCHI_1.encoder, T5Size())


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: a file's path below the folder, or a part of the model.
        kind: by checksum or by names and shapes.
        ok: whether it is as it should be.
        detail: what is wrong, or what was compared.
    """

    name: str
    kind: Literal["checksum", "shapes"]
    ok: bool
    detail: str


def verify(place: StrPath, on_progress: OnProgress | None = None) -> tuple[Finding, ...]:
    """Compare a model with the checksums noted at its download, and its tensors with the networks.

    A model that was not downloaded has no checksums; then names and shapes alone are compared, in
    whatever layout they are.

    Args:
        place: the folder of a model, or a file.
        on_progress: see `OnProgress`.

    Raises:
        WeightsError: there is no model at all.
    """
    path = Path(place)
    if not path.is_dir():
        views = Checkpoint.open(path).parts.values()
        if not views:
            raise WeightsError("holds no part of Mochi", path)
        return tuple(Finding(view.part, "shapes", *_compared(view)) for view in views)
    try:
        shapes = [_by_shapes(part, paths) for part, paths in ModelFiles.find(path).parts.items()]
    except WeightsError:
        shapes = list(_of_broken(path))
        if not shapes:
            raise
    return (*_by_checksum(path, on_progress), *shapes)


def _of_broken(folder: Path) -> Iterator[Finding]:
    """Findings about a folder that holds no whole model, as there are unusable files in it."""
    found = everything(folder)
    problems = [str(error) for error in found.errors]
    if not problems:
        return
    for part, candidates in found.candidates.items():
        yield from (_by_shapes(part, candidate.paths) for candidate in candidates)
    needed: tuple[Part, ...] = ("dit", "decoder")
    for part in needed:
        if not found.has(part):
            yield Finding(part, "shapes", False, problems.pop(0) if problems else "is missing")
    for problem in problems:
        yield Finding("a file", "shapes", False, problem)


def _by_checksum(folder: Path, on_progress: OnProgress | None) -> Iterator[Finding]:
    record = read_record(folder)
    sizes = {n: (folder / n).stat().st_size for n in record if (folder / n).is_file()}
    done, total = 0, sum(sizes.values())

    def count(read: int) -> None:
        nonlocal done
        done += read
        if on_progress is not None:
            on_progress(name, done, total)

    for name, checksum in record.items():
        if name not in sizes:
            yield Finding(name, "checksum", False, "is missing")
            continue
        ok = file_checksum(folder / name, checksum, count) == checksum
        detail = checksum[:16] if ok else "has changed since it was downloaded"
        yield Finding(name, "checksum", ok, detail)


def _by_shapes(part: Part, paths: tuple[Path, ...]) -> Finding:
    try:
        view = open_part(part, paths)
    except WeightsError as error:
        return Finding(part, "shapes", False, str(error))
    return Finding(part, "shapes", *_compared(view))


def _compared(view: PartView) -> tuple[bool, str]:
    """Whether names and shapes are right, and what was compared."""
    try:
        view.check()
    except WeightsError as error:
        return False, str(error)
    published = ", the sizes of Mochi 1" if view.config in _PUBLISHED else ""
    return True, f"{len(view.shapes)} tensors ({view.layout}, {view.main_kind}){published}"
