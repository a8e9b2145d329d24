"""Files that appear whole or not at all: planned first, written under another name, then renamed.

All files of a conversion are written into a hidden folder beside their final names and take these
at the end, by renaming. Whatever goes wrong before (a full disk, Ctrl-C, a broken source) takes the
hidden folder away again, and nothing has changed. The folder is locked, so that a second run of the
same conversion is refused, and what a killed one left is thrown away by the next.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from mochi.core.errors import OutputError, WeightsError

OnBytes = Callable[[int], None]
"""Hears how many bytes have been written since the last call."""

OnProgress = Callable[[str, int, int], None]
"""Hears a file's name, and bytes written and to write over all files."""

_PART = "mochi-part"
_COPIED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Piece:
    """One tensor of a file that is to be written; its values are made when they are asked for.

    Attributes:
        name: in the file.
        kind: how it is stored: `float32`, `bfloat16`, `float8_e4m3fn`, `uint8`, `q4_0`, ...
        shape: of the stored tensor; of the weights, where blocks are a kind of their own.
        nbytes: size of the data.
        chunks: makes the tensors whose bytes, one after another, are the data.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    nbytes: int
    chunks: Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class PlannedFile:
    """A file that is to be written.

    Attributes:
        name: below the destination, with `/`.
        nbytes: its size.
        write: writes it to an open file.
    """

    name: str
    nbytes: int
    write: Callable[[BinaryIO, OnBytes], None]


def text_file(name: str, content: str) -> PlannedFile:
    """A small file of text, such as a config."""
    raw = content.encode("utf-8")

    def write(file: BinaryIO, on_bytes: OnBytes) -> None:
        file.write(raw)
        on_bytes(len(raw))

    return PlannedFile(name, len(raw), write)


def copied_file(name: str, source: Path) -> PlannedFile:
    """A copy of a file as it is, such as a tokenizer's."""

    def blocks() -> Iterator[bytes]:
        try:
            with source.open("rb") as original:
                while block := original.read(_COPIED_AT_ONCE):
                    yield block
        except OSError as error:
            raise WeightsError(f"cannot be read: {error.strerror or error}", source) from error

    def write(file: BinaryIO, on_bytes: OnBytes) -> None:
        for block in blocks():
            file.write(block)
            on_bytes(len(block))

    return PlannedFile(name, source.stat().st_size, write)


def write_piece(file: BinaryIO, piece: Piece, on_bytes: OnBytes) -> None:
    """The data of one tensor, chunk by chunk; no more than a chunk is in memory at once."""
    written = 0
    for chunk in piece.chunks():
        flat = chunk.detach().contiguous().view(-1).view(torch.uint8)
        file.write(flat.numpy().data)
        written += flat.numel()
        on_bytes(flat.numel())
    assert written == piece.nbytes, f"{piece.name}: {written} bytes, {piece.nbytes} planned"


def write_files(
    folder: Path,
    files: Sequence[PlannedFile],
    overwrite: bool = False,
    obsolete: Iterable[str] = (),
    on_progress: OnProgress | None = None,
) -> None:
    """Write all files into a folder (made if need be), or none.

    Args:
        folder: where they go.
        files: what to write.
        overwrite: replace files that have these names.
        obsolete: names of files in the folder that the new ones replace and that have to go;
            ignored without `overwrite`.
        on_progress: see `OnProgress`.

    Raises:
        OutputError: a file exists, the disk is too small or refuses, or another run writes here.
    """
    total = sum(file.nbytes for file in files)
    _refuse_existing(folder, files, overwrite)
    _check_room(folder, total)
    done = 0
    with _disk_errors(folder), _made(folder), _staging(folder / f".{_PART}") as staging:
        for planned in files:

            def count(written: int, name: str = planned.name) -> None:
                nonlocal done
                done += written
                if on_progress is not None:
                    on_progress(name, done, total)

            path = staging / "new" / planned.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                planned.write(file, count)
                file.flush()
                os.fsync(file.fileno())
        _refuse_existing(folder, files, overwrite)
        gone = [name for name in obsolete if overwrite and (folder / name).is_file()]
        _exchange(folder, staging, [file.name for file in files], gone)


def readable_bytes(count: int) -> str:
    """A size to read: 20.1 GB, 3.4 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


# ----------------------------------------------------------------------------------------- helpers


def _refuse_existing(folder: Path, files: Iterable[PlannedFile], overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: exists and is no folder")
    for file in files:
        path = folder / file.name
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; a file belongs there")
        if not overwrite and os.path.lexists(path):
            raise OutputError(f"{path}: exists; --overwrite replaces it")


def _check_room(folder: Path, needed: int) -> None:
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"{folder}: {readable_bytes(needed)} are needed, its disk has room for "
            f"{readable_bytes(free)}"
        )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """What the disk refuses, in one line that names the file."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise OutputError(f"{where}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make the folder and those above it; after a failure, take away those that were made."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # not empty: somebody else put something there meanwhile
                path.rmdir()
        raise


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """An empty hidden folder that is locked, and gone afterwards."""
    folder.mkdir(exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{folder.parent}: another run is writing here") from None
        try:
            for leftover in folder.iterdir():
                shutil.rmtree(leftover)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _exchange(folder: Path, staging: Path, new: Sequence[str], gone: Sequence[str]) -> None:
    """Put the new files in their places and the old ones aside; undo all of it on any error."""
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        moved.append((source, target))  # before: Ctrl-C may come right behind the renaming
        os.rename(source, target)

    try:
        for name in (*new, *gone):
            if os.path.lexists(folder / name):
                move(folder / name, staging / "old" / name)
        for name in new:
            move(staging / "new" / name, folder / name)
    except BaseException:
        for source, target in reversed(moved):
            if not os.path.lexists(source):
                os.rename(target, source)
        raise
