"""Tables of weight names that run both ways; the tables themselves are in `layouts`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from mochi.weights.ops import STACK, Op, Shape
from mochi.weights.templates import Numbers, Template, Values

Part = Literal["dit", "decoder", "encoder", "t5"]

DIT_BLOCK = "blocks.{n}."
DIT_INNER = ("attn.proj_y.weight", "mlp_y.w1.weight", "mlp_y.w2.weight")


@dataclass(frozen=True)
class Rule:
    """One line of a table: our template, theirs (in order), and what happens to the tensor."""

    ours: str
    theirs: tuple[str, ...]
    op: Op = STACK


SAME = Rule("{any}", ("{any}",))
"""The only line of a table whose layout has our names."""


@dataclass(frozen=True)
class Table:
    """The names of one network in one layout.

    Attributes:
        layout: the layout's name, for messages.
        part: which network.
        marks: their names by which the layout is recognised; most of them should be there.
        rules: see `Rule`.
        our_numbers: reads the templates' numbers off our names.
        their_numbers: reads the same numbers off their names.
        neighbours: prefixes of names in the same file that belong to other networks.
        aliases: second names of tensors of theirs; where both are there, the second is no news.
    """

    layout: str
    part: Part
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    our_numbers: Callable[[Iterable[str]], Numbers]
    their_numbers: Callable[[Iterable[str]], Numbers]
    neighbours: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)

    def score(self, names: Iterable[str]) -> int:
        """How many of the marks are among these names."""
        return len(set(self.marks).intersection(names))

    def from_theirs(self, names: Iterable[str]) -> Names:
        """The table for a file that holds `names`."""
        return Names(self, self.their_numbers(names))

    def from_ours(self, names: Iterable[str]) -> Names:
        """The table for a network that has `names`."""
        return Names(self, self.our_numbers(names))


@dataclass(frozen=True)
class Sources:
    """Where one tensor of ours comes from: their names in order, and the operation."""

    names: tuple[str, ...]
    op: Op


class Names:
    """A table with its numbers filled in: for one checkpoint, of a known depth."""

    def __init__(self, table: Table, numbers: Numbers):
        self.table = table
        self._rules = [
            (
                Template.bind(rule.ours, numbers),
                [Template.bind(theirs, numbers) for theirs in rule.theirs],
                rule.op,
            )
            for rule in table.rules
        ]
        self._renames = table.rules != (SAME,)
        self._sources: dict[str, Sources] = {}
        self._ours: dict[str, str | None] = {}

    def sources(self, our_name: str) -> Sources:
        """Their names for one of ours.

        Raises:
            KeyError: the table has no rule for it.
        """
        if our_name not in self._sources:
            self._sources[our_name] = self._found(our_name)
        return self._sources[our_name]

    def ours(self, their_name: str) -> str | None:
        """Our name for one of theirs (or for the tensor that theirs is a part of)."""
        if their_name not in self._ours:
            self._ours[their_name] = self._found_ours(their_name)
        return self._ours[their_name]

    def _found(self, our_name: str) -> Sources:
        if not self._renames:
            return Sources((our_name,), STACK)
        for ours, theirs, op in self._rules:
            values = ours.match(our_name)
            if values is not None:
                return Sources(tuple(t.format(values) for t in theirs), op)
        raise KeyError(our_name)

    def _found_ours(self, their_name: str) -> str | None:
        if not self._renames:
            return their_name
        for ours, theirs, _ in self._rules:
            for template in theirs:
                values: Values | None = template.match(their_name)
                if values is not None:
                    return ours.format(values)
        return None

    def is_neighbour(self, their_name: str) -> bool:
        """Whether a name belongs to another network that shares the file."""
        return their_name.startswith(self.table.neighbours) if self.table.neighbours else False

    def our_shapes(self, theirs: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes of theirs under our names; what is incomplete or foreign is left out."""
        found: dict[str, Shape] = {}
        for their_name in theirs:
            name = self.ours(their_name)
            if name is None or name in found or self.is_neighbour(their_name):
                continue
            sources = self.sources(name)
            parts = [theirs[part] for part in sources.names if part in theirs]
            if len(parts) == len(sources.names) and all(parts):
                found[name] = sources.op.join_shapes(parts)
        return found

    def their_shapes(self, ours: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes of ours under their names."""
        found: dict[str, Shape] = {}
        for name, shape in ours.items():
            sources = self.sources(name)
            parts = sources.op.split_shape(shape, len(sources.names))
            found.update(zip(sources.names, parts, strict=True))
        return found

    def to_ours(self, our_name: str, read: Callable[[str], Tensor]) -> Tensor:
        """One tensor of ours; `read` gives theirs by name."""
        sources = self.sources(our_name)
        return sources.op.join([read(name) for name in sources.names])

    def to_theirs(self, our_name: str, tensor: Tensor) -> dict[str, Tensor]:
        """What one tensor of ours is in their layout."""
        sources = self.sources(our_name)
        parts = sources.op.split(tensor, len(sources.names))
        return dict(zip(sources.names, parts, strict=True))


def indices(names: Iterable[str], prefix: str) -> set[int]:
    """The whole numbers that stand in the place of `{n}` in names that start with `prefix`."""
    before, after = prefix.split("{n}")
    pattern = re.compile(re.escape(before) + r"(0|[1-9][0-9]{0,5})" + re.escape(after))
    return {int(found[1]) for name in names if (found := pattern.match(name))}


def count(names: Iterable[str], prefix: str) -> int:
    """One more than the largest such number, or 0 where there is none."""
    return max(indices(names, prefix), default=-1) + 1


def depth(names: Iterable[str], block: str, inner: tuple[str, ...], last: str = "") -> int:
    """How many blocks a transformer has, by the names of its tensors under `block`.

    Args:
        names: the names.
        block: the prefix of a block, with `{n}` for its number.
        inner: tensors that all blocks have but the last. Where the highest block has one of them,
            it is not the last: a shard is missing.
        last: a tensor that the last block alone has, which settles it.
    """
    known = set(names)
    highest = count(known, block) - 1
    here = {name for name in (*inner, last) if f"{block.format(n=highest)}{name}" in known}
    return highest + 2 if here and last not in here else highest + 1
