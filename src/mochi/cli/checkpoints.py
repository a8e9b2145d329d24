"""`mochi weights convert` and `mochi weights inspect`: other layouts, and what is in a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli.byte_progress import byte_progress, byte_size
from mochi.cli.say import print_json, printable, say

if TYPE_CHECKING:
    from mochi.weights.inspect import Inspection, PartInspection
    from mochi.weights.source import Opened

_SHOWN_ODDITIES = 20
_SHOWN_UNCLAIMED = 8
_SHOWN_CHARS = 200

Source = Annotated[
    str,
    typer.Argument(
        help="A file, an index of shards, a folder, nano, or a name on the hub.",
        metavar="SOURCE",
        show_default=False,
    ),
]
Destination = Annotated[
    Path,
    typer.Argument(
        help="A folder; or a .safetensors or .gguf file, where one is enough.",
        metavar="DEST",
        show_default=False,
    ),
]
To = Annotated[str, typer.Option(help="original, diffusers, comfy or gguf.", metavar="LAYOUT")]
Dtype = Annotated[
    str,
    typer.Option(
        help="Of what is not quantised: keep, float32, bfloat16, float16.", metavar="DTYPE"
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        help="The linear layers of the blocks: q8_0, q4_0 (to gguf, to original) or fp8 (to comfy "
        "with scales, to original without).",
        metavar="FORM",
    ),
]
Marking = Annotated[
    str,
    typer.Option(
        help="How ComfyUI's fp8 is marked: old, which it has always read, or new.",
        metavar="WORD",
    ),
]
Parts = Annotated[
    str | None,
    typer.Option(
        help="Only these, with commas between: dit, decoder, encoder, t5.", metavar="LIST"
    ),
]
AllInOne = Annotated[bool, typer.Option("--all-in-one", help="To comfy: one file for all parts.")]
ShardGb = Annotated[
    float, typer.Option(help="The largest file of a diffusers component, in GB.", metavar="GB")
]


def convert(
    context: typer.Context,
    source: Source,
    destination: Destination,
    to: To,
    dtype: Dtype = "keep",
    quantize: Quantize = None,
    marking: Marking = "old",
    parts: Parts = None,
    all_in_one: AllInOne = False,
    shard_gb: ShardGb = 10.0,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    json_output: o.Json = False,
) -> None:
    """Write a model in another layout or precision, from file to file.

    The memory this takes does not depend on the model. All files appear at the end, or none.

    [dim]Example:[/dim]  mochi weights convert nano comfy --to comfy --dtype bfloat16
    """
    from mochi.memory.pages import drop
    from mochi.weights.convert import Wishes, plan_conversion

    wishes: Any = {
        "to": to,
        "dtype": None if dtype == "keep" else dtype,
        "quantize": quantize,
        "marking": marking,
        "parts": tuple(part.strip() for part in parts.split(",")) if parts else None,
        "all_in_one": all_in_one,
        "shard_bytes": round(shard_gb * 1e9),
    }
    checked = Wishes(**wishes)
    opened = _open(source, quiet or json_output)
    plan = plan_conversion(opened.source, destination, checked, drop)
    if not (quiet or json_output):
        for checkpoint in opened.checkpoints:
            say(f"{checkpoint.label}: {checkpoint.description}")
        say(f"{len(plan.files)} files, {byte_size(plan.total_bytes)}, to {destination}")
    for note in plan.notes:
        say(f"note: {note}")
    began = time.monotonic()
    with byte_progress(quiet or json_output) as on_bytes:

        def tell(name: str, done: int, total: int) -> None:
            context.obj.check()
            on_bytes(name, done, total)

        plan.write(overwrite, tell)
    if json_output:
        files = {file.name: file.nbytes for file in plan.files}
        seconds = round(time.monotonic() - began, 3)
        folder, notes = str(plan.folder), list(plan.notes)
        print_json({"folder": folder, "files": files, "notes": notes, "seconds": seconds})
    elif not quiet:
        print(destination)


def inspect(
    context: typer.Context, source: Source, quiet: o.Quiet = False, json_output: o.Json = False
) -> int:
    """Say what is in a file or folder, and what looks wrong; every weight is read.

    The exit code is 1 when something is broken: NaN, missing or foreign tensors, wrong shapes.

    [dim]Example:[/dim]  mochi weights inspect nano
    """
    from mochi.memory.pages import drop
    from mochi.weights.inspect import inspect as look_at

    opened = _open(source, quiet or json_output)
    with byte_progress(quiet or json_output) as on_bytes:

        def tell(name: str, done: int, total: int) -> None:
            context.obj.check()
            on_bytes(name, done, total)

        found = look_at(opened.checkpoints, tell, drop)
    found.problems = opened.source.problems
    if json_output:
        print_json(found.to_dict())
    else:
        _print(found)
    return 1 if found.is_broken else 0


def find_path(name: str, quiet: bool = False) -> Path:
    """The file or folder that a name means; what is on the hub and not here is fetched.

    Raises:
        MochiError: there is nothing of this name.
    """
    from mochi.core.events import Event, Notice
    from mochi.pipeline.models import find_place

    def tell(event: Event) -> None:
        if isinstance(event, Notice) and not quiet:
            say(event.message)

    return find_place(name, on_event=tell)


def _open(name: str, quiet: bool) -> Opened:
    from mochi.weights.source import open_path

    return open_path(find_path(name, quiet))


def _print(found: Inspection) -> None:
    for problem in found.problems:
        print(f"BAD  {_plain(problem)}")
    for label, description in found.descriptions.items():
        print(f"{label}: {description}")
        for key, value in found.metadata[label].items():
            print(f"  metadata  {_plain(key)}: {_plain(value)}")
        names = found.unclaimed[label]
        if names:
            more = f" and {len(names) - _SHOWN_UNCLAIMED} more" * (len(names) > _SHOWN_UNCLAIMED)
            shown = ", ".join(map(_plain, names[:_SHOWN_UNCLAIMED]))
            print(f"  BAD  belong to no part of Mochi: {shown}{more}")
        for part in found.parts:
            if part.file == label:
                _print_part(part)


def _print_part(part: PartInspection) -> None:
    print(f"  {part.part}: {part.parameters:,} parameters, {byte_size(part.nbytes)}")
    for kind, held in part.kinds.items():
        size = byte_size(held.nbytes)
        print(f"    {kind}: {held.tensors:,} tensors, {held.parameters:,} parameters, {size}")
    if part.config:
        print("    " + ", ".join(f"{name} {_listed(size)}" for name, size in part.config.items()))
    for oddity in part.oddities[:_SHOWN_ODDITIES]:
        mark = "BAD" if oddity.is_broken else "odd"
        print(f"    {mark}  {_plain(oddity.name)}  {oddity.what}: {_plain(oddity.detail)}")
    if len(part.oddities) > _SHOWN_ODDITIES:
        more = len(part.oddities) - _SHOWN_ODDITIES
        broken = sum(oddity.is_broken for oddity in part.oddities[_SHOWN_ODDITIES:])
        print(f"    and {more} more, {broken} of them broken; --json has all")


def _listed(size: Any) -> str:
    return "-".join(map(str, size)) if isinstance(size, (list, tuple)) else str(size)


def _plain(text: str) -> str:
    """Some text of a stranger's file."""
    return printable(text[:_SHOWN_CHARS])
