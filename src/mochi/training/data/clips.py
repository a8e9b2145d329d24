"""Which videos a folder holds, and the caption of each."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mochi.core.errors import RequestError
from mochi.training.data.captions import CaptionProblem, Table, find_table, read_table, read_text
from mochi.video.sniff import ENDINGS, is_movie


@dataclass(frozen=True)
class Clip:
    """A video that may become samples.

    Attributes:
        name: its path below the folder of clips, with `/`.
        path: the file.
        caption: what it shows; white space is single blanks.
    """

    name: str
    path: Path
    caption: str


@dataclass(frozen=True, order=True)
class Skipped:
    """Something that was left out.

    Attributes:
        name: of the clip, or of the part of it (`NAME@START`).
        reason: why, and what would help.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What lies in a folder of clips."""

    clips: tuple[Clip, ...]
    skipped: tuple[Skipped, ...]


def find_clips(
    place: Path, table: Path | None = None, caption: str | None = None, leave: Path | None = None
) -> Found:
    """Look through a folder and everything below it; a file stands for itself.

    Videos are known by their content. Hidden files and folders are passed over.

    Args:
        place: the folder.
        table: captions as CSV or JSONL; None looks for one in the folder.
        caption: of clips that have none of their own.
        leave: a folder to pass over, such as the one that is written to.

    Raises:
        RequestError: there is no such folder, or no video in it.
        MochiError: the table cannot be used.
    """
    if not place.exists():
        raise RequestError("clips", str(place), "does not exist")
    root = place if place.is_dir() else place.parent
    files = sorted(_files(place, leave)) if place.is_dir() else [place]
    movies, skipped = _movies(files, root)
    if not movies and not skipped:
        rule = "holds no videos (mp4, mov, mkv, webm, gif)"
        raise RequestError("clips", str(place), rule)
    chosen = table if table is not None else find_table(root)
    rows = read_table(chosen) if chosen is not None else Table({}, "")
    captions = Captions(rows, movies, caption)
    clips = []
    for name, path in movies.items():
        try:
            clips.append(Clip(name, path, captions.of(name)))
        except CaptionProblem as problem:
            skipped.append(Skipped(name, str(problem)))
    skipped += [Skipped(name, why) for name, why in captions.unmatched()]
    return Found(tuple(clips), tuple(sorted(skipped)))


class Captions:
    """The caption of each video: a row of the table, else a text file beside it, else a common one.

    Args:
        table: rows by what they call a video.
        movies: all videos by name.
        common: the caption of those that have none of their own.
    """

    def __init__(self, table: Table, movies: dict[str, Path], common: str | None):
        self._table, self._movies, self._common = table, movies, common
        self._stems: dict[str, list[str]] = defaultdict(list)
        for name in movies:
            self._stems[_stem(name)].append(name)

    def of(self, name: str) -> str:
        """The caption of a video.

        Raises:
            CaptionProblem: it has none that can be used; says why.
        """
        stem = _stem(name)
        for row in (name, stem):
            if row in self._table.rows:
                self._refuse_shared(stem, f"{self._table.name}'s row {row}", row == stem)
                return self._table.caption(row)
        path = self._movies[name]
        own = path.with_name(path.name + ".txt")
        if own.is_file():
            return read_text(own)
        shared = path.with_suffix(".txt")
        if shared.is_file():
            self._refuse_shared(stem, shared.name)
            return read_text(shared)
        if self._common is not None:
            return self._common
        where = f", no row in {self._table.name}" if self._table.name else ""
        raise CaptionProblem(
            f"has no caption: there is no {shared.name}{where}; --caption gives one to all such"
        )

    def unmatched(self) -> Iterator[tuple[str, str]]:
        """Rows of the table that belong to no video."""
        known = {*self._movies, *self._stems}
        for row in self._table.rows:
            if row not in known:
                yield row, f"is in {self._table.name}, but there is no such video"

    def _refuse_shared(self, stem: str, what: str, applies: bool = True) -> None:
        names = self._stems[stem]
        if applies and len(names) > 1:
            others = " and ".join(Path(name).name for name in names)
            raise CaptionProblem(
                f"{others} have one name, so {what} is of neither; name it {Path(names[0]).name}"
                f"{'.txt' if what.endswith('.txt') else ''}"
            )


def _stem(name: str) -> str:
    return Path(name).with_suffix("").as_posix()


def _movies(files: Sequence[Path], root: Path) -> tuple[dict[str, Path], list[Skipped]]:
    """Files that begin like videos; those that are only called so, and why they are left out."""
    movies: dict[str, Path] = {}
    skipped = []
    for path in files:
        name = _readable(path.relative_to(root))
        try:
            if is_movie(path):
                movies[name] = path
            elif path.suffix.lower() in ENDINGS:
                empty = path.stat().st_size == 0
                skipped.append(Skipped(name, "is empty" if empty else "is no video"))
        except OSError as error:
            skipped.append(Skipped(name, f"cannot be read: {error.strerror or error}"))
    return movies, skipped


def _files(folder: Path, leave: Path | None) -> Iterator[Path]:
    left = leave.resolve() if leave is not None else None
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and Path(here, name).resolve() != left
        )
        for name in names:
            path = Path(here, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _readable(path: Path) -> str:
    """The name as text that any file can hold, where the disk's bytes are no UTF-8."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
