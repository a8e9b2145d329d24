"""The list of commands. Each lives in its own file and imports what is heavy when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mochi.cli.app import BAD_REQUEST, FAILURE
from mochi.cli.bench import bench
from mochi.cli.doctor import doctor
from mochi.cli.finetune import finetune
from mochi.cli.generate import generate
from mochi.cli.lora import lora
from mochi.cli.nano import evaluate, train_nano
from mochi.cli.prepare import prepare
from mochi.cli.reconstruct import reconstruct
from mochi.cli.say import say
from mochi.cli.serve import audit, serve, token
from mochi.cli.show import show
from mochi.cli.sweep import sweep
from mochi.cli.weights import weights
from mochi.core.events import CancelToken

VIDEOS, TRAINING = "Videos", "Training"
MODELS, SERVER = "Models and machine", "Server"

app = typer.Typer(
    name="mochi",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel=VIDEOS)(generate)
app.command(rich_help_panel=VIDEOS)(sweep)
app.command(rich_help_panel=VIDEOS)(reconstruct)
app.command(rich_help_panel=VIDEOS)(show)
app.command(rich_help_panel=TRAINING)(prepare)
app.command(rich_help_panel=TRAINING)(finetune)
app.command(rich_help_panel=MODELS)(doctor)
app.command("eval", rich_help_panel=MODELS)(evaluate)
app.command(rich_help_panel=MODELS)(train_nano)
app.add_typer(bench, name="bench", rich_help_panel=MODELS)
app.add_typer(weights, name="weights", rich_help_panel=MODELS)
app.add_typer(lora, name="lora", rich_help_panel=MODELS)
app.command(rich_help_panel=SERVER)(serve)
app.add_typer(token, name="token", rich_help_panel=SERVER)
app.command(rich_help_panel=SERVER)(audit)


def _print_version(asked: bool) -> None:
    if asked:
        import mochi

        typer.echo(f"mochi {mochi.__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Text to video with Mochi 1, on any machine.

    [dim]Example:[/dim]  mochi generate "a red circle moves left on a black background" --seed 0
    """


def invoke(argv: Sequence[str], token: CancelToken) -> int:
    """Parse `argv`, run its command with `token` as the context's object; returns the exit code."""
    command = typer.main.get_command(app)
    try:
        result = command.main(list(argv), prog_name="mochi", standalone_mode=False, obj=token)
    except typer.Abort:
        return FAILURE
    except Exception as error:
        # typer brings its own copy of click or uses the real one, by version: go by the shape.
        if not hasattr(error, "format_message"):
            raise
        say(f"error: {error.format_message()}")
        return int(getattr(error, "exit_code", BAD_REQUEST))
    return result if isinstance(result, int) else 0
