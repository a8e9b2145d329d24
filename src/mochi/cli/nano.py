"""`mochi eval` and `mochi train-nano`: judge the small model, and make it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli.say import print_json, say
from mochi.core.events import ignore

if TYPE_CHECKING:
    from mochi.training.nano.evaluate import Evaluation

_SHOWN_FAILURES = 10

Judged = Annotated[
    str,
    typer.Argument(
        help="[cyan]nano[/cyan], or a folder with a model of the same world.", metavar="MODEL"
    ),
]
Seen = Annotated[int, typer.Option(help="Prompts of combinations seen in training.", min=0)]
Unseen = Annotated[int, typer.Option(help="Prompts of combinations never seen.", min=0)]
Everyday = Annotated[int, typer.Option(help="Prompts in everyday wording.", min=0)]
Clips = Annotated[int, typer.Option("--vae-clips", help="Clips for the VAE's PSNR.", min=0)]
First = Annotated[int, typer.Option("--seed", help="Seed of the first clip.", min=0)]
Report = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write the report as JSON.", show_default=False),
]
Folder = Annotated[
    Path,
    typer.Option("--output", "-o", help="Checkpoints and the result (in DIR/nano).", metavar="DIR"),
]


def evaluate(
    context: typer.Context,
    model: Judged = "nano",
    seen: Seen = 200,
    unseen: Unseen = 50,
    everyday: Everyday = 100,
    vae_clips: Clips = 20,
    seed: First = 0,
    steps: o.Steps = None,
    guidance: o.Guidance = None,
    solver: o.Solver = None,
    preset: o.Preset = None,
    threshold: o.Threshold = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    output: Report = None,
    quiet: o.Quiet = False,
    json_output: o.Json = False,
) -> None:
    """Generate clips of the world of shapes and check that each shows what its prompt says.

    [dim]Example:[/dim]  mochi eval nano --steps 12 --solver ab2
    """
    settings: dict[str, Any] = {
        "steps": steps,
        "guidance": o.parse_guidance(guidance),
        "solver": solver,
        "preset": preset,
        "threshold": threshold,
    }
    from mochi.training.nano.evaluate import evaluate as judge_model
    from mochi.training.nano.evaluate import make_cases

    def show(done: int, total: int) -> None:
        context.obj.check()
        if not quiet and (done % 25 == 0 or done == total):
            say(f"{done} of {total} clips")

    given = {name: value for name, value in settings.items() if value is not None}
    pipe = o.load(model, device, dtype, "float32", ignore)
    cases = make_cases(seen, unseen, everyday)
    result = judge_model(pipe, cases, vae_clips, seed, show, **given)
    if output is not None:
        output.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    if json_output:
        print_json(result.to_dict())
    else:
        _print_table(result)


def _print_table(result: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    console, report = Console(), result.to_dict()
    columns = ("prompts", "colour", "background", "shape", "motion", "all four")
    table = Table("group", *columns)
    for group, score in report["groups"].items():
        shares = (f"{100 * score[name]:.1f} %" for name in columns[1:])
        table.add_row(group, str(score["prompts"]), *shares)
    console.print(table)
    if report["vae_psnr"]:
        psnr = report["vae_psnr"]
        console.print(
            f"VAE round trip: {psnr['mean_db']:.1f} dB over {psnr['clips']} unseen clips, "
            f"lowest {psnr['lowest_db']:.1f} dB"
        )
    for failure in result.failures[:_SHOWN_FAILURES]:
        console.print("wrong: {prompt} (seed {seed}) shows {shows}".format(**failure))


def train_nano(
    context: typer.Context,
    output: Folder = Path("nano-training"),
    device: o.Device = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
) -> None:
    """Train nano from scratch, or go on where it stopped: two hours on two cores.

    [dim]Example:[/dim]  mochi train-nano -o nano-training
    """
    import torch

    from mochi.training.nano.recipe import NanoRecipe
    from mochi.training.nano.train import train_nano as train

    def show(stage: str, values: dict[str, float]) -> None:
        context.obj.check()
        say(f"{stage}: " + " ".join(f"{name}={value:.5g}" for name, value in values.items()))

    if threads is not None:
        torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    folder = train(output, NanoRecipe(), show, device)
    print(folder)
