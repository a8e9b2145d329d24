"""Options that several commands share, named as the fields of a request are everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mochi.cli.ranks import sharing_of
from mochi.cli.speed import speed_of
from mochi.core.errors import RequestError
from mochi.core.events import OnEvent, ignore
from mochi.core.presets import PRESETS
from mochi.core.request import SOLVER_NAMES
from mochi.memory.modes import AUTO, check_mode
from mochi.pipeline.settings import FIELDS
from mochi.pipeline.settings import check_early as check_settings

if TYPE_CHECKING:
    from mochi.pipeline.lora_spec import LoraSpec
    from mochi.pipeline.pipeline import Pipeline

PICTURE, SAMPLING, MACHINE, FILES = "Picture", "Sampling", "Model and machine", "Files"

Model = Annotated[
    str | None,
    typer.Option(
        help="[cyan]nano[/cyan]; a folder: original, diffusers or ComfyUI files; a file: a "
        "transformer, an all-in-one, a .gguf; or a name on the hub (owner/name, owner/name/FILE).",
        metavar="NAME",
        rich_help_panel=MACHINE,
    ),
]
Dit = Annotated[
    str | None,
    typer.Option(
        help="The transformer from elsewhere: a file, a folder or a name on the hub. Without "
        "--model, the rest is looked for beside it.",
        metavar="NAME",
        rich_help_panel=MACHINE,
    ),
]
Vae = Annotated[
    str | None,
    typer.Option(help="The VAE from elsewhere.", metavar="NAME", rich_help_panel=MACHINE),
]
TextEncoderName = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        help="The T5 encoder from elsewhere: also one file, float16, fp8 or .gguf.",
        metavar="NAME",
        rich_help_panel=MACHINE,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        help="The tokenizer from elsewhere: a folder, or google/t5-v1_1-xxl.",
        metavar="NAME",
        rich_help_panel=MACHINE,
    ),
]
Dequantize = Annotated[
    bool,
    typer.Option(
        "--dequantize",
        help="Decode quantised weights when they are loaded: faster, and as large as plain ones.",
        rich_help_panel=MACHINE,
    ),
]
Products = Annotated[
    str,
    typer.Option(
        help="How blocks multiply: [cyan]exact[/cyan], or in 8 bits, lossy: int8, fp8.",
        metavar="NAME",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="[cyan]auto[/cyan], cpu, cuda, cuda:1, mps ...",
        metavar="DEVICE",
        rich_help_panel=MACHINE,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision of the networks: auto (as stored; bfloat16 for a large model on a GPU or "
        "in float16, fp8 or blocks), float32, bfloat16.",
        metavar="DTYPE",
        rich_help_panel=MACHINE,
    ),
]
TextDtype = Annotated[
    str,
    typer.Option(
        help="Precision of the text encoder: float32 (the published recipe) or bfloat16.",
        metavar="DTYPE",
        rich_help_panel=MACHINE,
    ),
]
Memory = Annotated[
    str,
    typer.Option(
        help="How much of the model is in memory at once: high (all of it), balanced (what is in "
        "use), low (block by block), minimal (block by block from the file); auto takes the "
        "fastest that fits.",
        metavar="MODE",
        rich_help_panel=MACHINE,
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        help="An adapter, and how much of it: FILE, FILE:0.8, a folder, or a name on the hub. "
        "May be given several times.",
        metavar="FILE:SCALE",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
LoraModeWord = Annotated[
    str,
    typer.Option(
        "--lora-mode",
        help="live: beside the weights, a little time. merged: in the weights, a little memory.",
        metavar="MODE",
        rich_help_panel=MACHINE,
    ),
]
Frames = Annotated[
    int | None, typer.Option(help="6k+1.", metavar="N", rich_help_panel=PICTURE, show_default=False)
]
Height = Annotated[
    int | None,
    typer.Option(help="Pixels, a multiple of 16.", metavar="N", rich_help_panel=PICTURE),
]
Width = Annotated[
    int | None,
    typer.Option(help="Pixels, a multiple of 16.", metavar="N", rich_help_panel=PICTURE),
]
Fps = Annotated[
    int | None, typer.Option(help="Frames a second.", metavar="N", rich_help_panel=PICTURE)
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(help="What the video should not show.", metavar="TEXT", rich_help_panel=PICTURE),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help=f"Sampler settings by name: {', '.join(PRESETS)}.",
        metavar="NAME",
        rich_help_panel=SAMPLING,
    ),
]
Steps = Annotated[
    int | None, typer.Option(help="Sampling steps.", metavar="N", rich_help_panel=SAMPLING)
]
Guidance = Annotated[
    str | None,
    typer.Option(
        help="One scale, or one for each step: 6 or 6,6,3.",
        metavar="SCALE",
        rich_help_panel=SAMPLING,
    ),
]
Solver = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(SOLVER_NAMES)}.", metavar="NAME", rich_help_panel=SAMPLING),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="How far sigma falls in the schedule's linear part.",
        metavar="X",
        rich_help_panel=SAMPLING,
    ),
]
LinearSteps = Annotated[
    int | None,
    typer.Option(
        help="Steps in the schedule's linear part.", metavar="N", rich_help_panel=SAMPLING
    ),
]
StepCacheWord = Annotated[
    str | None,
    typer.Option(
        "--step-cache",
        help="Skip blocks where little changes: first-block:0.1 or tea:0.06. Lossy.",
        metavar="KIND:T",
        rich_help_panel=SAMPLING,
    ),
]
LinearEvery = Annotated[
    int | None,
    typer.Option(
        help="Compute every N-th of the linear steps only. Lossy.",
        metavar="N",
        rich_help_panel=SAMPLING,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what exists.", rich_help_panel=FILES)
]
Server = Annotated[
    str | None,
    typer.Option(
        help="Let a Mochi server make it: the address of `mochi serve`.",
        metavar="URL",
        envvar="MOCHI_SERVER",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
ServerToken = Annotated[
    str | None,
    typer.Option(
        "--token",
        help="For a server that wants one; better in the environment than on the command line.",
        metavar="TEXT",
        envvar="MOCHI_TOKEN",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help=".mp4, .webm, .gif or a folder for PNG frames; by default a new .mp4 here, named "
        "after prompt and seed.",
        metavar="FILE",
        rich_help_panel=FILES,
    ),
]


def file_option(help_text: str) -> Any:
    """An option that names a file beside the video."""
    return typer.Option(help=help_text, metavar="FILE", rich_help_panel=FILES)


def parse_guidance(text: str | None) -> float | tuple[float, ...] | None:
    """`6` as a number, `6,6,3` as one scale for each step, None as None.

    Raises:
        RequestError: a part is no number.
    """
    if text is None:
        return None
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise RequestError(
            "guidance", text, "is neither a number nor numbers with commas between", "6 or 6,6,3"
        ) from None
    return scales[0] if len(scales) == 1 else scales


def request_settings(context: typer.Context) -> dict[str, Any]:
    """The options of a command that are fields of a request, by their names; None is "not said".

    Raises:
        RequestError: the guidance is no number.
    """
    given = context.params
    settings = {name: given[name] for name in FIELDS if name in given}
    for name in ("prompt", "model", "preset"):  # these have ways of their own
        settings.pop(name, None)
    return settings | {"guidance": parse_guidance(given["guidance"])}


def check_early(
    settings: Mapping[str, Any], preset: str | None = None, output: Path | None = None
) -> None:
    """Refuse what no model could make right, within a tenth of a second: no torch is imported.

    Raises:
        RequestError: a setting breaks its rule, or the output's ending is unknown.
    """
    from mochi.video.formats import target_of

    check_settings(settings, preset)
    if output is not None:
        target_of(output)


def load(
    model: str | None,
    device: str,
    dtype: str,
    text_dtype: str,
    on_event: OnEvent = ignore,
    loras: Sequence[LoraSpec] = (),
    parts: Mapping[str, Any] | None = None,
) -> Pipeline:
    """The model that a command was asked for, nano by default; `parts` are those of `model_parts`.

    Raises:
        MochiError: as `mochi.load`.
    """
    import mochi

    return mochi.load(
        model,
        device=device,
        dtype=dtype,
        text_dtype=text_dtype,
        loras=loras,
        on_event=on_event,
        **(parts or {}),
    )


def model_parts(context: typer.Context) -> dict[str, Any]:
    """What a command was told about its model, and how to hold it, as `mochi.load` takes it.

    Raises:
        RequestError: there is no such memory mode, no such fast path, or not so many devices.
    """
    check_mode(context.params.get("memory", AUTO))
    names = ("dit", "vae", "text_encoder", "tokenizer", "dequantize", "products", "memory")
    given = {name: context.params[name] for name in names if name in context.params}
    return given | {"speed": speed_of(context)} | sharing_of(context.params)
