"""A hook before anything is made: what a prompt may not ask for, by a list of terms."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mochi.core.errors import RequestError

Mode = Literal["off", "log", "block"]

TERMS = (
    "child porn",
    "child pornography",
    "child sexual",
    "csam",
    "lolicon",
    "naked child",
    "naked children",
    "nude child",
    "nude children",
    "nude minor",
    "pedophile",
    "pedophilia",
    "preteen nude",
    "revenge porn",
    "sexualised minor",
    "sexualized minor",
    "snuff film",
    "underage nude",
    "underage sex",
)
"""What no server should make. A list of words is a first net, not a judgement."""

_LOOKALIKES = str.maketrans("013457@$", "oieastas")


@dataclass(frozen=True)
class Verdict:
    """What was found, and whether that is a refusal."""

    term: str
    refused: bool


class Safety:
    """Looks for terms in prompts."""

    def __init__(self, mode: Mode, terms: Sequence[str] = TERMS):
        self.mode = mode
        self._terms = {term: _pattern(term) for term in terms}

    @classmethod
    def of(cls, mode: Mode, terms: Path | None) -> Safety:
        """With the built-in list, or one from a file.

        Raises:
            RequestError: the file cannot be read.
        """
        if terms is None:
            return cls(mode)
        try:
            lines = terms.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise RequestError("safety_terms", str(terms), f"cannot be read: {error}") from error
        return cls(mode, [line.strip() for line in lines if line.strip()])

    def look(self, text: str) -> Verdict | None:
        """The first term in a prompt, or None."""
        if self.mode == "off":
            return None
        plain = _plain(text)
        spellings = (plain, plain.translate(_LOOKALIKES))
        for term, pattern in self._terms.items():
            if any(pattern.search(spelling) for spelling in spellings):
                return Verdict(term, self.mode == "block")
        return None


def _plain(text: str) -> str:
    """Small letters without accents; letters that look like others are those."""
    wide = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in wide if not unicodedata.combining(letter))


def _pattern(term: str) -> re.Pattern[str]:
    """Whole words, whatever stands between them."""
    words = (re.escape(word) for word in _plain(term).split())
    return re.compile(r"(?<!\w)" + r"[\W_]+".join(words) + r"(?!\w)")
