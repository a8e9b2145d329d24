"""`mochi weights`: fetch a model, and check that it is whole."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli.progress import clock
from mochi.cli.say import print_json
from mochi.core.errors import RequestError

weights = typer.Typer(
    help="Fetch a model, and check that it is whole.", no_args_is_help=True, rich_markup_mode="rich"
)

OnBytes = Callable[[str, int, int], None]
"""Hears a file's name, and bytes done and to do over all files."""

_SECONDS_BETWEEN_LINES = 5.0

Repo = Annotated[
    str,
    typer.Argument(help="A name on the hub (owner/name).", metavar="NAME", show_default=False),
]
Destination = Annotated[
    Path | None,
    typer.Argument(
        help="A folder for the files; else the cache that Hugging Face programs share.",
        metavar="DIR",
        show_default=False,
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit.", metavar="NAME")]
Parts = Annotated[
    str | None,
    typer.Option(
        help="Only these, with commas between: dit, decoder, encoder, text_encoder, tokenizer.",
        metavar="LIST",
    ),
]
Variant = Annotated[
    str | None, typer.Option(help="Of a diffusers folder, such as bf16.", metavar="NAME")
]
Endpoint = Annotated[
    str | None, typer.Option(help="Address of the hub.", metavar="URL", envvar="HF_ENDPOINT")
]
Token = Annotated[
    str | None,
    typer.Option(
        help="For private and gated models; better in the environment than on the command line.",
        metavar="TEXT",
        envvar="HF_TOKEN",
        show_default=False,
    ),
]
Folder = Annotated[
    Path, typer.Argument(help="A folder with a model.", metavar="DIR", show_default=False)
]


@weights.command()
def download(
    name: Repo,
    folder: Destination = None,
    revision: Revision = None,
    parts: Parts = None,
    variant: Variant = None,
    endpoint: Endpoint = None,
    token: Token = None,
    quiet: o.Quiet = False,
    json_output: o.Json = False,
) -> None:
    """Fetch a model: licence and size first, then the files, with checksums.

    Stop it at any time; run again, it goes on where it was.

    [dim]Example:[/dim]  mochi weights download genmo/mochi-1-preview models/mochi-1
    """
    from mochi.weights.hub import DownloadPlan, DownloadProgress
    from mochi.weights.hub import download as fetch
    from mochi.weights.hub_files import PARTS

    chosen = [_one_of(part, PARTS) for part in parts.split(",")] if parts else PARTS
    silent = quiet or json_output
    with byte_progress(silent) as on_bytes:

        def announce(plan: DownloadPlan) -> None:
            if not silent:
                print(plan, file=sys.stderr, flush=True)

        def tell(progress: DownloadProgress) -> None:
            on_bytes(progress.file, progress.done_bytes, progress.total_bytes)

        where = fetch(
            name,
            folder,
            endpoint=endpoint,
            revision=revision,
            token=token,
            parts=chosen,
            variant=variant,
            on_plan=announce,
            on_progress=tell,
        )
    if json_output:
        print_json({"name": name, "folder": str(where)})
    elif not quiet:
        print(where)


@weights.command()
def verify(folder: Folder, quiet: o.Quiet = False, json_output: o.Json = False) -> int:
    """Check a model's files: contents against the checksums of the download, names and shapes.

    [dim]Example:[/dim]  mochi weights verify models/mochi-1
    """
    from mochi.weights.verify import verify as look_at

    with byte_progress(quiet or json_output) as on_bytes:
        findings = look_at(folder, on_bytes)
    if json_output:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            if not (quiet and finding.ok):
                mark = "ok " if finding.ok else "BAD"
                print(f"{mark}  {finding.name}  {finding.kind}: {finding.detail}")
    return 0 if all(finding.ok for finding in findings) else 1


def _one_of(part: str, known: tuple[Any, ...]) -> Any:
    if part.strip() not in known:
        raise RequestError("parts", part, "is unknown", ", ".join(known))
    return part.strip()


@contextmanager
def byte_progress(quiet: bool) -> Iterator[OnBytes]:
    """A bar in bytes on a terminal, a line every five seconds elsewhere."""
    if quiet:
        yield lambda name, done, total: None
    elif sys.stderr.isatty():
        with _byte_bar() as bar:
            task = bar.add_task("", total=None)

            def move(name: str, done: int, total: int) -> None:
                bar.update(task, description=name, completed=done, total=total)

            yield move
    else:
        yield _ByteLines()


class _ByteLines:
    """Progress in bytes as lines, with the time that is left."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done  # what was here before says nothing about the speed
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        fresh = max(1, done - self._first)
        left = (now - self._began) / fresh * (total - done)
        share = 100 * done / max(1, total)
        print(f"{name}: {share:.0f} %, {clock(left)} left", file=sys.stderr, flush=True)


def _byte_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn(binary_units=False),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        redirect_stdout=False,
    )
