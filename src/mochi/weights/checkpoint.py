"""Checkpoints of every layout, recognised by what is in them.

A file is opened as what its first bytes say, the tensors of quantised weights are put together
(`markings`), and each part of a model is found by the names of its tensors, whatever prefix they
have (`layouts`). What is left of the differences is a `PartView`: our names, their tensors.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, get_args

from mochi.core.errors import WeightsError
from mochi.model.stored import is_small_kind
from mochi.weights.containers import Contents
from mochi.weights.layouts import TABLES
from mochi.weights.markings import NEW, OLD, fold, refuse_unscaled, unscaled
from mochi.weights.names import Names, Part, Table
from mochi.weights.networks import ARTICLES, config_of, expected_shapes
from mochi.weights.ops import Shape
from mochi.weights.report import LoadReport, Shapes
from mochi.weights.shards import shards
from mochi.weights.stored import Stored, joined
from mochi.weights.tensors import StrPath

Source = StrPath | Sequence[StrPath]
"""A file, the shards of one, their index, or a folder."""

PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Place:
    """Where a part was found: in which layout, and after which prefix of names."""

    table: Table
    prefix: str
    score: int


class PartView:
    """One part of a checkpoint under our names, which are the published ones.

    Attributes:
        part: which.
        table: the layout of its names.
        prefix: what stands before them in the file.
        names: the table, bound to this checkpoint.
        tensors: logical tensors by their names, without the prefix.
        metadata: of the file.
        label: the file, for messages.
    """

    def __init__(
        self, place: Place, tensors: Mapping[str, Stored], metadata: Mapping[str, str], label: str
    ):
        self.part: Part = place.table.part
        self.table = place.table
        self.prefix = place.prefix
        self.metadata = metadata
        self.label = label
        self.tensors = _without_aliases(place.table, tensors)
        self.names: Names = place.table.from_theirs(self.tensors)

    @property
    def layout(self) -> str:
        """Name of the layout, such as `diffusers`."""
        return self.table.layout

    @cached_property
    def shapes(self) -> Shapes:
        """Our names and the shapes of the weights; what is incomplete or foreign is left out."""
        return self.names.our_shapes({name: t.shape for name, t in self.tensors.items()})

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        """Our names and how each weight is stored: `bfloat16`, `fp8_scaled`, `q4_0`, ..."""
        return {name: self.read(name).kind for name in self.shapes}

    @cached_property
    def config(self) -> Any:
        """The sizes of the network: `DiTConfig`, `DecoderConfig`, `EncoderConfig` or `T5Size`.

        Raises:
            WeightsError: the tensors are those of another model.
        """
        try:
            return config_of(self.part, self.shapes)
        except WeightsError as error:
            raise WeightsError(str(error), self.label) from None

    def read(self, name: str) -> Stored:
        """One tensor by our name; its numbers are read when they are asked for.

        Raises:
            WeightsError: it is not here.
        """
        try:
            sources = self.names.sources(name)
            return joined(sources.op, [self.tensors[source] for source in sources.names])
        except KeyError:
            raise WeightsError(f"holds no {name}", self.label) from None

    @cached_property
    def report(self) -> LoadReport:
        """Names and shapes against those of the network, in the file's own names.

        Raises:
            WeightsError: the tensors are those of another model.
        """
        return self._compared(expected_shapes(self.part, self.config))

    def check(self, expected: Shapes | None = None) -> None:
        """Refuse a checkpoint that does not fit its network.

        Args:
            expected: our names and shapes of the network, from whoever has built it already.

        Raises:
            WeightsError: a tensor is missing, foreign or of a wrong shape, or lacks its scale.
        """
        report = self.report if expected is None else self._compared(expected)
        report.raise_if_bad(ARTICLES[self.part], self.label)
        if "fp8_scaled" in self.kinds.values():
            refuse_unscaled(unscaled(self.tensors), self.label)

    @property
    def is_quantised(self) -> bool:
        """Whether some of it is float8 or ggml blocks."""
        return any(is_small_kind(kind) for kind in self.kinds.values())

    @property
    def nbytes(self) -> int:
        """Bytes of this part in the file."""
        tensors = self.tensors.items()
        return sum(t.nbytes for name, t in tensors if not self.names.is_neighbour(name))

    @property
    def main_kind(self) -> str:
        """How most of its numbers are stored."""
        sizes: Counter[str] = Counter()
        for name, stored in self.tensors.items():
            if not self.names.is_neighbour(name):
                sizes[stored.kind] += prod(stored.shape)
        return sizes.most_common(1)[0][0] if sizes else "nothing"

    def _compared(self, expected: Shapes) -> LoadReport:
        theirs = self.names.their_shapes(expected)
        found = {n: t.shape for n, t in self.tensors.items() if not self.names.is_neighbour(n)}
        return LoadReport.compare(self._prefixed(theirs), self._prefixed(found))

    def _prefixed(self, shapes: Shapes) -> dict[str, Shape]:
        return {f"{self.prefix}{name}": shape for name, shape in shapes.items()}


class Checkpoint:
    """What one file, or the shards of one, hold.

    Attributes:
        contents: the files.
        tensors: all logical tensors, by the names in the file.
        markings: how quantised weights are marked, if there are any.
        parts: the parts of a model that are in there.
    """

    def __init__(self, contents: Contents):
        self.contents = contents
        try:
            folded = fold(contents.tensors, contents.metadata)
            places = dict(_places(folded.tensors))
        except WeightsError as error:
            raise WeightsError(str(error), contents.label) from None
        self.tensors: Mapping[str, Stored] = folded.tensors
        self.markings = folded.markings
        self.parts: Mapping[Part, PartView] = {
            part: self.view(place, places) for part, place in places.items()
        }

    @classmethod
    def open(cls, source: Source) -> Checkpoint:
        """Look into a checkpoint. Headers are read and checked; of the numbers nothing is read.

        Args:
            source: a file (safetensors, GGUF, PyTorch), all shards of one, or their index.

        Raises:
            WeightsError: it cannot be used: unreadable, truncated, of an unknown quantisation,
                with scales missing, or with a part twice.
        """
        return cls(Contents.open(source_files(source)))

    @property
    def label(self) -> str:
        """The file, for messages."""
        return self.contents.label

    @cached_property
    def unclaimed(self) -> tuple[str, ...]:
        """Names that belong to no part."""
        views = self.parts.values()
        claimed = {f"{view.prefix}{name}" for view in views for name in view.tensors}
        return tuple(name for name in self.tensors if name not in claimed)

    @property
    def description(self) -> str:
        """The layout in one line, such as `ComfyUI all-in-one, fp8_scaled (old marking): dit,
        decoder, encoder, t5`."""
        kinds = dict.fromkeys(view.main_kind for view in self.parts.values())
        shown = " and ".join(f"{kind}{self._remark(kind)}" for kind in kinds)
        return f"{self._style()}, {shown or 'nothing'}: {', '.join(self.parts) or 'no part'}"

    def view(self, place: Place, places: Mapping[Part, Place]) -> PartView:
        """The tensors after a prefix, less those that belong to other parts with longer ones."""
        longer = tuple(
            other.prefix
            for other in places.values()
            if other.prefix != place.prefix and other.prefix.startswith(place.prefix)
        )
        tensors = {
            name.removeprefix(place.prefix): stored
            for name, stored in self.tensors.items()
            if name.startswith(place.prefix) and not (longer and name.startswith(longer))
        }
        return PartView(place, tensors, self.contents.metadata, self.label)

    def part(self, part: Part) -> PartView:
        """One part; also a damaged one, of which the report then tells what is missing.

        Raises:
            WeightsError: nothing in here looks like it; says what there is instead.
        """
        if part in self.parts:
            return self.parts[part]
        found = [place for place in _candidates(self.tensors, part) if not place.prefix]
        if found:
            return self.view(found[0], {part: found[0]})
        raise WeightsError(f"holds nothing of {ARTICLES[part]}{self._instead()}", self.label)

    def _instead(self) -> str:
        if self.parts:
            part, view = next(iter(self.parts.items()))
            return f"; it looks like {ARTICLES[part]} ({view.layout} names)"
        shown = ", ".join(list(self.tensors)[:4]) or "no tensors at all"
        return f"; it has {len(self.tensors)} tensors of something else: {shown}"

    def _remark(self, kind: str) -> str:
        if "scaled" in kind:
            return next((f" ({mark})" for mark in (OLD, NEW) if mark in self.markings), "")
        return " (a cast without scales)" if kind.startswith("float8") else ""

    def _style(self) -> str:
        views = self.parts.values()
        container = next((c for c in ("GGUF", "PyTorch") if c in self.contents.containers), "")
        layouts = " and ".join(dict.fromkeys(view.layout for view in views))
        if any(view.prefix for view in views):
            layouts = "ComfyUI all-in-one" if len(views) > 2 else "ComfyUI"
        return ", ".join(filter(None, (container, layouts))) or "unknown names"


def source_files(source: Source) -> list[Path]:
    """The files of a source that is no folder.

    Raises:
        WeightsError: none were given, or an index names what is not there.
    """
    if not isinstance(source, (str, os.PathLike)):
        if not source:
            raise WeightsError("no files were given")
        return [Path(path) for path in source]
    path = Path(source)
    return list(shards(path)) if path.suffix == ".json" and path.is_file() else [path]


# ------------------------------------------------------------------------------------- recognition


def _places(tensors: Mapping[str, Stored]) -> Iterator[tuple[Part, Place]]:
    endings = _by_ending(tensors)
    for part in PARTS:
        candidates = _candidates_among(tensors, endings, part)
        found = [p for p in candidates if 2 * p.score > len(p.table.marks)]
        if len(found) > 1:
            raise WeightsError(
                f"holds {ARTICLES[part]} more than once: {' and '.join(map(_shown, found))}; "
                "put each in a file of its own"
            )
        if found:
            yield part, found[0]


def _shown(place: Place) -> str:
    return f"{place.table.layout} names" + (f" after {place.prefix!r}" if place.prefix else "")


def _candidates(tensors: Mapping[str, Stored], part: Part) -> list[Place]:
    """Everywhere that a part may be, the likeliest first."""
    return _candidates_among(tensors, _by_ending(tensors), part)


def _candidates_among(
    tensors: Mapping[str, Stored], endings: Mapping[str, Sequence[str]], part: Part
) -> list[Place]:
    found = []
    for table in (table for table in TABLES if table.part == part):
        prefixes = {
            name.removesuffix(mark)
            for mark in table.marks
            for name in endings.get(_ending(mark), ())
            if name.endswith(mark) and (len(name) == len(mark) or name[-len(mark) - 1] == ".")
        }
        for prefix in sorted(prefixes):
            names = [f"{prefix}{mark}" for mark in table.marks]
            found.append(Place(table, prefix, sum(name in tensors for name in names)))
    return sorted(found, key=lambda place: -place.score)


def _by_ending(names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Names by their last two words: every mark has as many, and few names end like it."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        found[_ending(name)].append(name)
    return found


def _ending(name: str) -> str:
    return ".".join(name.rsplit(".", 2)[-2:])


def _without_aliases(table: Table, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    known = dict(tensors)
    for alias, name in table.aliases.items():
        if alias in known:
            known.setdefault(name, known[alias])
            del known[alias]
    return known
