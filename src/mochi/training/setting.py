"""Settings of a config file: what each is, which values it may have, and one line about it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from typing import Any, TypeVar, cast

from mochi.core.errors import RequestError

Section = TypeVar("Section")


def setting(
    default: Any,
    about: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    words: Sequence[str] = (),
    all_word: bool = False,
) -> Any:
    """A field of a section.

    Args:
        default: its value where the file says nothing; its type is the setting's type.
        about: what it does, for the file that `--init` writes.
        least, above: smallest value, or what it must be larger than.
        most, below: largest value, or what it must be smaller than.
        words: the only values of a text, or of a list's items.
        all_word: a whole number that may also be the word "all".
    """
    rules = {"least": least, "above": above, "most": most, "below": below}
    notes = {"about": about, "rules": rules, "words": tuple(words), "all": all_word}
    return field(default=default, metadata=notes)


def read_section(kind: type[Section], name: str, given: Mapping[str, Any]) -> Section:
    """A section from what a file says.

    Raises:
        RequestError: a setting is unknown, of another type, or outside its rule.
    """
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    values = {}
    for key, value in given.items():
        if key not in known:
            raise unknown(f"{name}.{key}", value, "is no setting", key, list(known))
        values[key] = _checked(f"{name}.{key}", value, known[key])
    return kind(**values)


def unknown(
    field_name: str, value: object, rule: str, word: str, words: Sequence[str]
) -> RequestError:
    """The error for a word that is none of those there are; offers the nearest, else all."""
    near = difflib.get_close_matches(word, words, n=1)
    return RequestError(field_name, value, rule, near[0] if near else ", ".join(words))


def _checked(name: str, value: Any, one: Any) -> Any:
    default, notes = one.default, one.metadata
    if notes["all"] and value == "all":
        return value
    if isinstance(default, tuple):
        return _list(name, value, default, notes)
    kind = int if notes["all"] else type(default)
    checked = _typed(name, value, kind)
    if notes["words"] and checked not in notes["words"]:
        raise unknown(name, value, "is unknown", str(value), notes["words"])
    if isinstance(checked, int | float) and not isinstance(checked, bool):
        _in_range(name, checked, notes["rules"])
    return checked


def _list(name: str, value: Any, default: tuple[Any, ...], notes: Mapping[str, Any]) -> Any:
    if not isinstance(value, list):
        raise RequestError(name, value, "is no list", f"[{_shown(value)}]")
    kind = type(default[0]) if default else str
    items = tuple(_typed(name, item, kind) for item in value)
    for item in items:
        if notes["words"] and item not in notes["words"]:
            raise unknown(name, item, "is unknown", str(item), notes["words"])
        if isinstance(item, int | float):
            _in_range(name, item, notes["rules"])
    return items


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        said = {int: "whole number", float: "number", str: "text in quotes", bool: "true or false"}
        nearest = None
        if kind is int and isinstance(value, float) and math.isfinite(value):
            nearest = round(value)
        raise RequestError(name, value, f"is not a {said[kind]}", nearest)
    if kind is float and not math.isfinite(cast(float, value)):
        raise RequestError(name, value, "is no finite number")
    return value


def _in_range(name: str, value: float, rules: Mapping[str, float | None]) -> None:
    least, above, most, below = (rules[key] for key in ("least", "above", "most", "below"))
    if least is not None and value < least:
        raise RequestError(name, value, f"is below {least:g}", _shown(least))
    if above is not None and value <= above:
        raise RequestError(name, value, f"is not above {above:g}")
    if most is not None and value > most:
        raise RequestError(name, value, f"is above {most:g}", _shown(most))
    if below is not None and value >= below:
        raise RequestError(name, value, f"is not below {below:g}")


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


def toml_value(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(item) for item in cast("Sequence[object]", value)) + "]"
    return repr(value)
