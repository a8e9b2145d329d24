"""Examples that ship with the package: clips of nano, with their inputs and times."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from mochi.serving.inputs import THEIRS
from mochi.serving.offers import Offer

PAGE = Path(__file__).parent / "page"


@cache
def _shipped() -> list[dict[str, Any]]:
    path = PAGE / "examples" / "examples.json"
    if not path.is_file():
        return []
    return list(json.loads(path.read_text(encoding="utf-8"))["examples"])


def examples(offer: Offer, base: str) -> list[dict[str, Any]]:
    """The shipped predictions of a model, which are all of nano's weights."""
    if offer.entry.source != "nano":
        return []
    return [_prediction(entry, offer, base) for entry in _shipped()]


def _prediction(entry: dict[str, Any], offer: Offer, base: str) -> dict[str, Any]:
    place = f"{base}/static/examples"
    return {
        "id": entry["id"],
        "model": offer.name,
        "version": offer.version,
        "status": "succeeded",
        "source": "example",
        "input": {THEIRS.get(name, name): value for name, value in entry["input"].items()},
        "output": f"{place}/{entry['output']}",
        "variants": {"thumbnail": f"{place}/{entry['poster']}"},
        "metrics": entry["metrics"],
        "error": None,
        "logs": "",
    }
