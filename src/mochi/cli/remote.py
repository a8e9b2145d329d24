"""`mochi generate --server`: the same request, made by a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mochi.cli.adapters import NONE
from mochi.cli.naming import default_output
from mochi.cli.progress import progress
from mochi.cli.say import print_json
from mochi.core.errors import OutputError, RequestError

if TYPE_CHECKING:
    from mochi.serving.client import RemoteJob

_ONLY_HERE = (
    "preview",
    "embeddings",
    "save_embeddings",
    "latents",
    "save_latents",
    "lora_mode",
    "dit",
    "vae",
    "text_encoder",
    "tokenizer",
    "dequantize",
    "products",
    "memory",
    "devices",
    "parallel",
    "launcher",
    "shard",
    "attention",
    "kernels",
    "passes",
    "tables",
)
_FROM_LIKE = (
    "negative_prompt",
    "frames",
    "height",
    "width",
    "fps",
    "steps",
    "guidance",
    "seed",
    "solver",
    "threshold",
    "linear_steps",
    "step_cache",
    "linear_every",
)


def generate_there(
    context: typer.Context, prompt: str | None, settings: Mapping[str, Any], past: Mapping[str, Any]
) -> None:
    """Let a server make the video, show its progress, fetch the file. Stopped, the job is too.

    Args:
        context: of the command, with its options.
        prompt: what was asked for; None is that of `past`.
        settings: fields that were said.
        past: the request of a video to be like.

    Raises:
        RequestError: an option that a server has no use for, or a setting breaks a rule.
        OutputError: the file exists, or cannot be written.
        ServerError: the server cannot be reached, or refuses.
    """
    options = context.params
    for name in _ONLY_HERE:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise RequestError(name, str(options[name]), "is not possible with --server")
    output = options["output"]
    if output is not None and output.exists() and not options["overwrite"]:
        raise OutputError(f"{output}: exists already; pass --overwrite to replace it")
    from mochi.serving.client import Client

    asked = prompt if prompt is not None else str(past.get("prompt", ""))
    fields = _fields(settings, past)
    if options["lora"]:
        fields["loras"] = [] if options["lora"] == [NONE] else options["lora"]
    with (
        Client(options["server"], options["token"]) as client,
        progress(options["quiet"] or options["json_output"]) as listen,
    ):
        job = client.submit(asked, preset=options["preset"], model=options["model"], **fields)
        try:
            job.wait(listen, context.obj)
        except KeyboardInterrupt:
            job.cancel()
            raise
        path = output or default_output(asked, job.prediction["input"]["seed"], Path())
        job.save(path, options["overwrite"])
    _report(path, job, options["quiet"], options["json_output"])


def _fields(settings: Mapping[str, Any], past: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, before what the other video was made with."""
    said = {name: value for name, value in settings.items() if value is not None}
    return {name: past[name] for name in _FROM_LIKE if past.get(name)} | said


def _report(path: Path, job: RemoteJob, quiet: bool, as_json: bool) -> None:
    prediction = job.prediction
    if as_json:
        print_json({"output": str(path), "prediction": prediction})
    elif not quiet:
        made, seed = prediction["metrics"], prediction["input"]["seed"]
        size = f"{made['width']}x{made['height']}, {made['frames']} frames"
        print(f"{path}: {size}, seed {seed}, {made['predict_time']:.1f} s")
