"""Name templates: one text that both recognises a tensor name and writes it.

`blocks.{i}.attn.proj_x.{p}` has these kinds of field:

| field | matches |
|---|---|
| `{i}`, `{j}`, ... | a whole number |
| `{j+1}` | a whole number of at least 1, one more than `j` |
| `{j+down}`, `{last}` | as above, with a number of the checkpoint at hand (`Numbers`) |
| `{p}` | `weight` or `bias` |
| `{any}` | whatever is left, dots included |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Numbers = Mapping[str, int]
"""What a template cannot know by itself, such as the index of the last block."""

Values = dict[str, str | int]

_FIELD = re.compile(r"\{(\w+)(?:\+(\w+))?\}")
_KINDS = {"p": "weight|bias", "any": ".+"}
_WHOLE = "0|[1-9][0-9]*"


@dataclass(frozen=True)
class Template:
    """A template with its numbers filled in.

    Attributes:
        text: the template as written in the table.
        offsets: for every field of a whole number, what is added to it in the name.
    """

    text: str
    offsets: Mapping[str, int]
    pattern: re.Pattern[str]

    @classmethod
    def bind(cls, text: str, numbers: Numbers) -> Template:
        """Fill in `numbers`; a field that is a number becomes plain text."""
        offsets: dict[str, int] = {}
        plain = _FIELD.sub(
            lambda m: str(numbers[m[1]]) if m[1] in numbers and not m[2] else m[0], text
        )
        pieces, at = [], 0
        for field in _FIELD.finditer(plain):
            name, offset = field[1], field[2]
            pieces.append(re.escape(plain[at : field.start()]))
            pieces.append(f"(?P<{name}>{_KINDS.get(name, _WHOLE)})")
            if name not in _KINDS:
                offsets[name] = _number(offset, numbers)
            at = field.end()
        pieces.append(re.escape(plain[at:]))
        return cls(plain, offsets, re.compile("".join(pieces)))

    def match(self, name: str) -> Values | None:
        """The values of the fields in `name`, or None where it is another name."""
        found = self.pattern.fullmatch(name)
        if found is None:
            return None
        values: Values = dict(found.groupdict())
        for field, offset in self.offsets.items():
            number = int(found[field]) - offset
            if number < 0:
                return None
            values[field] = number
        return values

    def format(self, values: Values) -> str:
        """The name with these values in its fields."""

        def written(field: re.Match[str]) -> str:
            value = values[field[1]]
            return str(value + self.offsets[field[1]] if isinstance(value, int) else value)

        return _FIELD.sub(written, self.text)


def _number(offset: str | None, numbers: Numbers) -> int:
    if offset is None:
        return 0
    return int(offset) if offset.isdigit() else numbers[offset]
