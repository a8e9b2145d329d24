"""Which files of a folder hold parts of a model, by what is in them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mochi.core.errors import WeightsError
from mochi.weights.checkpoint import Checkpoint
from mochi.weights.containers import claims_tensors
from mochi.weights.names import Part
from mochi.weights.shards import shards
from mochi.weights.variants import choose, parse

ENDINGS = (".safetensors", ".sft", ".gguf")
"""A file with such a name that cannot be used is reported; others are silently no weights."""

_PIECE = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,6})-of-(?P<count>\d{1,6})\.safetensors")
_FILES_LOOKED_AT = 1000


@dataclass(frozen=True)
class Candidate:
    """A file, or the shards of one, that holds at least one part of a model.

    Attributes:
        paths: the files.
        name: for messages, relative to the folder that was asked for.
        checkpoint: what is in it.
    """

    paths: tuple[Path, ...]
    name: str
    checkpoint: Checkpoint

    @property
    def is_diffusers(self) -> bool:
        """Whether its networks have diffusers' names, which do not mix with the published ones."""
        return any(view.layout == "diffusers" for view in self.checkpoint.parts.values())


@dataclass
class Found:
    """What looking into folders brought.

    Attributes:
        candidates: by part; one file may hold several.
        errors: why files that should be weights are none.
    """

    candidates: dict[Part, list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    errors: list[WeightsError] = field(default_factory=list)

    def add(self, candidate: Candidate) -> None:
        """Count a candidate for all of its parts."""
        for part in candidate.checkpoint.parts:
            self.candidates[part].append(candidate)

    def extend(self, other: Found) -> Found:
        """Both together."""
        for part, candidates in other.candidates.items():
            self.candidates[part] += candidates
        self.errors += other.errors
        return self

    def has(self, *parts: Part) -> bool:
        """Whether there is something for each of these parts."""
        return all(self.candidates.get(part) for part in parts)

    def of_layout(self, diffusers: bool) -> Found:
        """Those with diffusers' names, or the others."""
        kept = {
            part: [c for c in candidates if c.is_diffusers == diffusers]
            for part, candidates in self.candidates.items()
        }
        return Found(defaultdict(list, {part: c for part, c in kept.items() if c}), self.errors)


def look(folder: Path, root: Path | None = None, variant: str | None = None) -> Found:
    """The weights that lie in one folder (not below it).

    Args:
        folder: the folder.
        root: names in messages are relative to this; the folder itself by default.
        variant: where files are there in several precisions (`model.bf16.safetensors`), take
            this one; None takes the plain ones, or the only ones there are.

    Raises:
        WeightsError: the variant is asked for and absent.
    """
    found = Found()
    try:
        entries = sorted(folder.iterdir())[:_FILES_LOOKED_AT]
    except OSError:
        return found
    for group in _groups(entries, variant, found.errors):
        name = group[0].relative_to(root or folder).as_posix()
        shown = f"{name} (and {len(group) - 1} more)" if len(group) > 1 else name
        try:
            found.add(Candidate(group, shown, Checkpoint.open(group)))
        except WeightsError as error:
            if group[0].name.endswith(ENDINGS):
                found.errors.append(error)
    return found


def _groups(
    entries: Iterable[Path], variant: str | None, errors: list[WeightsError]
) -> Iterator[tuple[Path, ...]]:
    """Files that belong together: the shards of an index, or one file."""
    paths = {path.name: path for path in entries}
    stems: dict[str, list[str]] = defaultdict(list)
    for name in paths:
        known = parse(name)
        if known is not None:
            stems[known.stem].append(name)
        elif _may_be_weights(paths[name]):
            yield (paths[name],)
    for stem, names in stems.items():
        chosen = choose(names, variant, fall_back=True)
        fitting = {name for name in names if (w := parse(name)) and w.variant == chosen}
        yield from _of_one_stem(stem, {name: paths[name] for name in sorted(fitting)}, errors)


def _of_one_stem(
    stem: str, paths: Mapping[str, Path], errors: list[WeightsError]
) -> Iterator[tuple[Path, ...]]:
    """The whole file where there is one, else its shards."""
    known = {name: parse(name) for name in paths}
    whole = [n for n, w in known.items() if w and not (w.is_shard or w.is_index)]
    indices = [n for n, w in known.items() if w and w.is_index]
    try:
        if whole:
            yield from ((paths[name],) for name in whole if _may_be_weights(paths[name]))
        elif indices:
            yield shards(paths[indices[0]])
        else:
            yield from _without_index(paths)
    except WeightsError as error:
        errors.append(error)


def _without_index(paths: Mapping[str, Path]) -> Iterator[tuple[Path, ...]]:
    """Shards that no index names belong together by their numbers."""
    pieces: dict[tuple[str, int], dict[int, Path]] = defaultdict(dict)
    for name, path in paths.items():
        piece = _PIECE.fullmatch(name)
        if piece is not None:
            pieces[piece["stem"], int(piece["count"])][int(piece["number"])] = path
    for (_, count), numbered in pieces.items():
        missing = [number for number in range(1, count + 1) if number not in numbered]
        if missing:
            first = next(iter(numbered.values()))
            raise WeightsError(
                f"is one of {count} shards, of which number {missing[0]} is missing", first
            )
        yield tuple(numbered[number] for number in sorted(numbered))


def _may_be_weights(path: Path) -> bool:
    return path.name.endswith(ENDINGS) or claims_tensors(path)
