"""Whether the files of a model are what they should be: content by checksum, tensors by shape."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mochi.core.errors import WeightsError
from mochi.weights.folder import ModelFiles
from mochi.weights.hub_places import file_checksum, read_record
from mochi.weights.loading import check
from mochi.weights.names import Part

StrPath = str | os.PathLike[str]

OnProgress = Callable[[str, int, int], None]
"""Called with a file's name, and bytes read and to read over all files."""


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


def verify(folder: StrPath, on_progress: OnProgress | None = None) -> tuple[Finding, ...]:
    """Compare a model with the checksums noted at its download, and its tensors with the networks.

    A folder that was not downloaded has no checksums; then the shapes alone are compared.

    Raises:
        WeightsError: the folder holds no model at all.
    """
    files = ModelFiles.find(folder)
    checksums = tuple(_by_checksum(Path(folder), on_progress))
    parts: list[Part] = ["dit", "decoder"]
    parts += ["encoder"] if files.encoder is not None else []
    parts += ["t5"] if files.text_encoder is not None else []
    return checksums + tuple(_by_shapes(files, part) for part in parts)


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


def _by_shapes(files: ModelFiles, part: Part) -> Finding:
    try:
        report = check(part, files.part(part))
    except WeightsError as error:
        return Finding(part, "shapes", False, str(error))
    return Finding(part, "shapes", report.ok, str(report))
