"""What the command line says: one line on stderr, or JSON on stdout."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any


def say(message: str) -> None:
    """One line on stderr, even where the message holds line breaks."""
    print("mochi: " + printable(" ".join(message.split())), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text without what could move the cursor or colour the terminal: files come from
    anywhere, and their names and contents are shown."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_json(content: object) -> None:
    """A value as JSON on stdout, indented, as plain ASCII."""
    print(json.dumps(content, indent=2, allow_nan=False))


def say_warnings() -> None:
    """From now on a warning is one line on stderr; those of other libraries stay quiet."""
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=UserWarning, module=r"mochi(\.|$)")
    warnings.showwarning = _show


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {message}")
