"""`mochi generate`: one prompt, one video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli import ranks
from mochi.cli import speed as fast
from mochi.cli.adapters import asked_loras, recorded_loras, tell_lora_differences
from mochi.cli.naming import default_output
from mochi.cli.pictures import preview_to
from mochi.cli.progress import clock, progress
from mochi.cli.remote import generate_there
from mochi.cli.say import print_json
from mochi.core.errors import DoesNotFitError, OutputError, RequestError
from mochi.core.events import CancelToken, Notice, OnEvent
from mochi.pipeline.record import request_in

if TYPE_CHECKING:
    from mochi.core.request import GenerateRequest
    from mochi.pipeline.clip import Rendered
    from mochi.pipeline.lora_spec import LoraSpec
    from mochi.pipeline.pipeline import Pipeline

Prompt = Annotated[
    str | None, typer.Argument(help="What the video shows.", metavar="PROMPT", show_default=False)
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Same seed, same video; drawn when not given.",
        metavar="N",
        rich_help_panel=o.SAMPLING,
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(
        help="Repeat the request inside this video; other options change it.",
        metavar="FILE",
        rich_help_panel=o.SAMPLING,
    ),
]
PreviewFile = Annotated[
    Path | None,
    typer.Option(
        "--preview",
        help="A picture of the video as it stands, replaced after every step.",
        metavar="FILE.png",
        rich_help_panel=o.FILES,
    ),
]
Embeddings = Annotated[Path | None, o.file_option("Text features to use in place of a prompt.")]
SaveEmbeddings = Annotated[Path | None, o.file_option("Keep the text features of this run.")]
Latents = Annotated[
    Path | None,
    o.file_option("Latents to start from in place of noise; finished ones are only decoded."),
]
SaveLatents = Annotated[Path | None, o.file_option("Keep the finished latents of this run.")]


@dataclass(frozen=True)
class Extras:
    """What a run reads and leaves besides the video."""

    embeddings: Path | None
    save_embeddings: Path | None
    latents: Path | None
    save_latents: Path | None
    preview: Path | None

    @property
    def inputs_alone(self) -> Extras:
        """Those of a process that writes nothing."""
        return replace(self, save_embeddings=None, save_latents=None, preview=None)

    def check_free(self, overwrite: bool) -> None:
        """Refuse to replace a file unasked, before the work is done.

        Raises:
            OutputError: a file to be written exists.
        """
        for path in (self.save_embeddings, self.save_latents):
            if path is not None and path.exists() and not overwrite:
                raise OutputError(f"{path}: exists already; pass --overwrite to replace it")

    def read(self) -> dict[str, Any]:
        """What the run starts from, as `generate_to` takes it.

        Raises:
            WeightsError: a file is missing or unusable.
        """
        from mochi.pipeline.latents import StoredLatents
        from mochi.text.features import TextFeatures

        return {
            "embeddings": self.embeddings and TextFeatures.load(self.embeddings),
            "latents": self.latents and StoredLatents.load(self.latents),
            "preview": self.preview is not None,
        }

    def write(self, rendered: Rendered, overwrite: bool) -> None:
        """Keep what was asked for.

        Raises:
            OutputError: a file cannot be written.
        """
        if self.save_embeddings is not None:
            rendered.embeddings.save(self.save_embeddings, overwrite=overwrite)
        if self.save_latents is not None:
            rendered.latents.save(self.save_latents, overwrite=overwrite)


def generate(
    context: typer.Context,
    prompt: Prompt = None,
    negative_prompt: o.NegativePrompt = None,
    frames: o.Frames = None,
    height: o.Height = None,
    width: o.Width = None,
    fps: o.Fps = None,
    seed: Seed = None,
    preset: o.Preset = None,
    like: Like = None,
    steps: o.Steps = None,
    guidance: o.Guidance = None,
    solver: o.Solver = None,
    threshold: o.Threshold = None,
    linear_steps: o.LinearSteps = None,
    step_cache: o.StepCacheWord = None,
    linear_every: o.LinearEvery = None,
    output: o.Output = None,
    overwrite: o.Overwrite = False,
    preview: PreviewFile = None,
    embeddings: Embeddings = None,
    save_embeddings: SaveEmbeddings = None,
    latents: Latents = None,
    save_latents: SaveLatents = None,
    model: o.Model = None,
    dit: o.Dit = None,
    vae: o.Vae = None,
    text_encoder: o.TextEncoderName = None,
    tokenizer: o.Tokenizer = None,
    lora: o.Lora = None,
    lora_mode: o.LoraModeWord = "live",
    device: o.Device = "auto",
    devices: ranks.Devices = 1,
    parallel: ranks.Parallel = ranks.AUTO,
    shard: ranks.Shard = False,
    launcher: ranks.Launcher = "local",
    dtype: o.Dtype = "auto",
    dequantize: o.Dequantize = False,
    products: o.Products = "exact",
    text_dtype: o.TextDtype = "float32",
    memory: o.Memory = "auto",
    attention: fast.Attention = "auto",
    kernels: fast.Kernels = "auto",
    passes: fast.PassesWord = "auto",
    tables: fast.Tables = True,
    server: o.Server = None,
    token: o.ServerToken = None,
    quiet: o.Quiet = False,
    json_output: o.Json = False,
) -> None:
    """Make a video from a prompt.

    What is not said comes from --preset, then from --like, then from the model's own defaults.

    [dim]Example:[/dim]  mochi generate "a red circle moves left on a black background" --seed 0
    """
    ranks.check_devices(context)
    extras = Extras(embeddings, save_embeddings, latents, save_latents, preview)
    settings = o.request_settings(context)
    asked = _asked_prompt(prompt, embeddings, like)
    o.check_early({"prompt": asked, **settings}, preset, output)
    if not ranks.leads():
        extras, quiet, json_output = extras.inputs_alone, True, False
    extras.check_free(overwrite)
    loras, record = _adapters(lora, lora_mode, like)
    past = request_in(record) if record else {}
    if server is not None:
        generate_there(context, asked, settings, past)
        return
    parts = o.model_parts(context)
    with progress(quiet or json_output) as listen:
        named = model or (None if dit else past.get("model"))
        pipe = o.load(named, device, dtype, text_dtype, listen, loras, parts)
        prompt = asked if asked is not None else str(past.get("prompt", ""))
        request = pipe.request(prompt, preset=preset, like=past, **settings)
        _tell_differences(record, pipe, extras, listen)
        path = output or default_output(request.prompt, request.seed, Path())
        rendered = _render(pipe, request, path, overwrite, extras, listen, context.obj)
    _report(path, rendered, quiet, json_output)


def _render(
    pipe: Pipeline,
    request: GenerateRequest,
    path: Path,
    overwrite: bool,
    extras: Extras,
    listen: OnEvent,
    cancel: CancelToken,
) -> Rendered:
    inputs = extras.read()
    with preview_to(extras.preview, listen, overwrite) as on_event:
        try:
            rendered = pipe.generate_to(
                path, request, overwrite=overwrite, on_event=on_event, cancel=cancel, **inputs
            )
        except DoesNotFitError as error:
            raise _with_latents_kept(error, extras.save_latents, path) from error
    extras.write(rendered, overwrite)
    return rendered


def _with_latents_kept(error: DoesNotFitError, asked: Path | None, video: Path) -> DoesNotFitError:
    """The error, with the finished latents of its run, if there are any, in a file that it names.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    if error.latents is None:
        return error
    path = asked or video.with_name(f"{video.name}.latents.safetensors")
    error.latents.save(path, overwrite=asked is not None)
    return DoesNotFitError(
        f"{error}; the finished latents are in {path}, and --latents {path} decodes them"
    )


def _asked_prompt(prompt: str | None, embeddings: Path | None, like: Path | None) -> str | None:
    """The prompt on the command line; embeddings alone are called by their file's name.

    Raises:
        RequestError: nothing says what the video shows.
    """
    if prompt is not None or like is not None:
        return prompt
    if embeddings is not None:
        return f"[{embeddings.name}]"
    raise RequestError("prompt", "", "is missing; say what the video shows")


def _adapters(
    lora: list[str] | None, mode: str, like: Path | None
) -> tuple[list[LoraSpec], dict[str, Any]]:
    """The adapters that are asked for, else those of the video to be like; and its record."""
    loras = asked_loras(lora, mode)
    record = _record_inside(like)
    if like is not None and lora is None:
        loras = recorded_loras(record, like, mode)
    return loras, record


def _record_inside(video: Path | None) -> dict[str, Any]:
    if video is None:
        return {}
    from mochi.video.metadata import read_request

    return read_request(video)


def _tell_differences(
    record: dict[str, Any], pipe: Pipeline, extras: Extras, listen: OnEvent
) -> None:
    """Say why a video will not be the one that it is made like."""
    if record.get("model_hash") not in (None, pipe.model_hash):
        listen(Notice("the weights are not those that made the given video: it will differ"))
    for name, given in (("embeddings", extras.embeddings), ("latents", extras.latents)):
        if name in record and given is None:
            listen(Notice(f"the given video was made from {name} in a file; see --{name}"))
    if record:
        tell_lora_differences(record, pipe, listen)


def _report(path: Path, rendered: Rendered, quiet: bool, as_json: bool) -> None:
    seconds = sum(rendered.seconds.values())
    if as_json:
        print_json(
            {
                "output": str(path),
                "seconds": {phase: round(taken, 3) for phase, taken in rendered.seconds.items()},
                "prompt_tokens": rendered.prompt_tokens,
                "truncated": rendered.truncated,
                **rendered.record,
            }
        )
    elif not quiet:
        request = rendered.request
        took = clock(seconds) if seconds >= 60 else f"{seconds:.1f} s"
        print(f"{path}: {request.size}, seed {request.seed}, {took}")
