"""Names of files that nobody chose: made of the prompt and the seed, readable, never taken."""

from __future__ import annotations

import itertools
import re
import unicodedata
from pathlib import Path

_LONGEST = 48


def slug(prompt: str) -> str:
    """A prompt as part of a file name: lower case words with dashes, at most 48 characters."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    name = ""
    for word in words:
        longer = f"{name}-{word}" if name else word[:_LONGEST]
        if len(longer) > _LONGEST:
            break
        name = longer
    return name or "video"  # a prompt without a single Latin letter or digit


def default_output(prompt: str, seed: int, folder: Path, suffix: str = ".mp4") -> Path:
    """A path in `folder` that does not exist yet: `a-red-circle-seed7.mp4`, then `...-2.mp4`."""
    stem = f"{slug(prompt)}-seed{seed}"
    for number in itertools.count(1):
        path = folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        if not path.exists():
            return path
    raise AssertionError("counting does not end")
