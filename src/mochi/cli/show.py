"""`mochi show`: the request inside a video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli.adapters import lora_entries, lora_text
from mochi.cli.say import print_json, printable

Video = Annotated[
    Path,
    typer.Argument(
        help="A .mp4, .webm, .gif or .png that Mochi wrote, or a folder of frames.",
        metavar="FILE",
        show_default=False,
    ),
]


def show(video: Video, json_output: o.Json = False) -> None:
    """Print the request inside a video: what made it, and with which model.

    [dim]Example:[/dim]  mochi show circle.mp4
    """
    from mochi.video.metadata import read_request

    record = read_request(video)
    if json_output:
        print_json(record)
        return
    rows = list(_rows(record))
    widest = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{widest}}  {value}")


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The request's fields first, then what else is known; what was not set is left out."""
    request = record.get("request")
    if isinstance(request, Mapping):
        for name, value in request.items():
            if value not in (None, ""):
                yield name, _text(value)
    for name, value in record.items():
        if name not in ("request", "loras"):
            yield name, _text(value)
    for entry in lora_entries(record):
        yield "lora", lora_text(entry)


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return printable(f"{value:g}" if isinstance(value, float) else str(value))
