"""`mochi weights`: fetch a model, look into it, check it, write it in other layouts."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli.byte_progress import byte_progress
from mochi.cli.checkpoints import convert, find_path, inspect
from mochi.cli.lora import lora
from mochi.cli.say import print_json
from mochi.core.errors import RequestError

weights = typer.Typer(
    help="Fetch, check and convert models.", no_args_is_help=True, rich_markup_mode="rich"
)
weights.command()(inspect)
weights.command()(convert)
weights.add_typer(lora, name="lora")

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
Model = Annotated[
    str,
    typer.Argument(
        help="A folder with a model, a file, nano, or a name on the hub.",
        metavar="MODEL",
        show_default=False,
    ),
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
def verify(model: Model, quiet: o.Quiet = False, json_output: o.Json = False) -> int:
    """Check a model's files: contents against the checksums of the download, names and shapes.

    Every layout is understood. What was not downloaded here has no checksums to compare with.

    [dim]Example:[/dim]  mochi weights verify models/mochi-1
    """
    from mochi.weights.verify import verify as look_at

    with byte_progress(quiet or json_output) as on_bytes:
        findings = look_at(find_path(model), on_bytes)
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
