"""`mochi prepare`: a folder of clips and captions becomes what a trainer reads."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mochi.cli import options as o
from mochi.cli.progress import Lines, clock
from mochi.cli.say import print_json, printable, say
from mochi.core.errors import RequestError
from mochi.core.events import OnEvent, ignore
from mochi.core.sizes import VideoSize
from mochi.training.data.buckets import AUTO, Bucket, automatic, parse_buckets

if TYPE_CHECKING:
    from mochi.pipeline.defaults import ModelCard
    from mochi.training.data.prepare import OnPrepared, Prepared
    from mochi.training.data.report import Report

CLIPS, CAPTIONS = "Clips", "Captions"
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
_USUAL_FRAMES = 37
_MOST_WORKERS = 4
_SECONDS_BETWEEN_LINES = 2.0
_SHOWN_SKIPS = 20
_STAGES = {"hash": "Reading files", "text": "Encoding captions", "clips": "Encoding clips"}

Clips = Annotated[
    Path,
    typer.Argument(
        help="A folder with videos and their captions; looked through to its depths.",
        metavar="CLIPS",
        show_default=False,
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="The folder to make, or to go on with.",
        metavar="DATA",
        rich_help_panel=o.FILES,
        show_default=False,
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        help="Frames of each clip, 6k+1; 37 by default, or the model's own where that is fewer.",
        metavar="N",
        rich_help_panel=CLIPS,
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="Clips are cropped and resized to it; the model's own by default, 848x480 for Mochi.",
        metavar="WIDTHxHEIGHT",
        rich_help_panel=CLIPS,
        show_default=False,
    ),
]
BucketWords = Annotated[
    list[str] | None,
    typer.Option(
        "--bucket",
        help="Instead of --frames and --size: FRAMESxHEIGHTxWIDTH, several times; each clip goes "
        "to the one that suits it. [cyan]auto[/cyan]: the size in five shapes, from 16:9 to 9:16.",
        metavar="BUCKET",
        rich_help_panel=CLIPS,
        show_default=False,
    ),
]
Fps = Annotated[
    int | None,
    typer.Option(
        help="Clips are resampled to it by their times; the model's own by default, 30 for Mochi.",
        metavar="N",
        rich_help_panel=CLIPS,
        show_default=False,
    ),
]
Scenes = Annotated[
    bool, typer.Option("--scenes", help="Cut where the scene changes.", rich_help_panel=CLIPS)
]
Take = Annotated[
    int,
    typer.Option(
        help="At most so many clips from each video (or scene), spread evenly.",
        metavar="N",
        min=1,
        rich_help_panel=CLIPS,
    ),
]
Upscale = Annotated[
    bool,
    typer.Option(
        "--upscale",
        help="Enlarge what is too small instead of leaving it out.",
        rich_help_panel=CLIPS,
    ),
]
Table = Annotated[
    Path | None,
    typer.Option(
        "--captions",
        help="A .csv or .jsonl with columns file and caption; captions.csv or metadata.jsonl in "
        "the folder is found. Otherwise a.txt (or a.mp4.txt) beside a.mp4 is its caption.",
        metavar="FILE",
        rich_help_panel=CAPTIONS,
        show_default=False,
    ),
]
Common = Annotated[
    str | None,
    typer.Option(
        "--caption",
        help="The caption of clips that have none of their own.",
        metavar="TEXT",
        rich_help_panel=CAPTIONS,
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Clips that are decoded at once; by default as many as there are cores, at most 4.",
        metavar="N",
        min=1,
        rich_help_panel=o.MACHINE,
        show_default=False,
    ),
]


def prepare(
    context: typer.Context,
    clips: Clips,
    output: Data,
    frames: Frames = None,
    size: Size = None,
    bucket: BucketWords = None,
    fps: Fps = None,
    scenes: Scenes = False,
    take: Take = 1,
    upscale: Upscale = False,
    captions: Table = None,
    caption: Common = None,
    workers: Workers = None,
    model: o.Model = None,
    vae: o.Vae = None,
    text_encoder: o.TextEncoderName = None,
    tokenizer: o.Tokenizer = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    text_dtype: o.TextDtype = "float32",
    memory: o.Memory = "auto",
    quiet: o.Quiet = False,
    json_output: o.Json = False,
) -> None:
    """Turn clips and captions into latents and text features, for `mochi finetune`.

    Videos are known by their content: mp4, mov, mkv, webm, gif. Stopped at any moment and started
    again, it goes on where it was. DATA/report.json says what was used, skipped and why;
    DATA/contact_sheet.png shows it.

    [dim]Example:[/dim]  mochi prepare clips -o data --frames 25 --scenes
    """
    rows, columns = _parse_size(size)
    _check(frames, size, bucket, fps, rows, columns)
    if caption is not None and not caption.strip():
        raise RequestError("caption", caption, "is empty")
    from mochi.training.data.plan import Cutting
    from mochi.training.data.prepare import Captioning
    from mochi.training.data.prepare import prepare as run

    with _shown(quiet or json_output) as (tell, on_event):
        parts = o.model_parts(context)
        pipe = o.load(model, device, dtype, text_dtype, tell, parts=parts)
        buckets = _buckets(pipe.card, frames, rows, columns, bucket)
        rate = fps or pipe.card.settings.fps
        report = run(
            clips,
            output,
            pipe,
            Cutting(buckets, rate, scenes, take, upscale),
            captioning=Captioning(captions, caption and " ".join(caption.split())),
            workers=workers or min(_MOST_WORKERS, os.cpu_count() or 1),
            on_event=on_event,
            cancel=context.obj,
        )
    if json_output:
        print_json({"output": str(output), **report.to_dict()})
    elif not quiet:
        _print(report)


def _parse_size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise RequestError("size", text, "is not WIDTHxHEIGHT", "848x480")
    return int(match[2]), int(match[1])


def _check(
    frames: int | None,
    size: str | None,
    bucket: Sequence[str] | None,
    fps: int | None,
    rows: int | None,
    columns: int | None,
) -> None:
    """Refuse what no model could make right, before anything heavy is imported."""
    o.check_early({"frames": frames, "height": rows, "width": columns, "fps": fps})
    named = [text for text in bucket or () if text != AUTO]
    parse_buckets(named)
    if named and (frames or size or AUTO in (bucket or ())):
        other = "auto" if AUTO in (bucket or ()) else "frames or size"
        raise RequestError("bucket", ", ".join(named), f"goes without {other}: it says all three")


def _buckets(
    card: ModelCard,
    frames: int | None,
    rows: int | None,
    columns: int | None,
    bucket: Sequence[str] | None,
) -> tuple[Bucket, ...]:
    named = [text for text in bucket or () if text != AUTO]
    if named:
        return parse_buckets(named)
    usual = card.settings
    size = VideoSize(
        frames or min(_USUAL_FRAMES, usual.frames), rows or usual.height, columns or usual.width
    )
    one = Bucket(size.frames, size.height, size.width)
    return automatic(one.frames, one.height, one.width) if bucket else (one,)


@contextmanager
def _shown(quiet: bool) -> Iterator[tuple[OnEvent, OnPrepared]]:
    """Listeners that print lines on stderr, seldom: a preparation takes minutes to days."""
    if quiet:
        yield ignore, lambda event: None
        return
    yield Lines(sys.stderr), _Lines()


class _Lines:
    """Says every two seconds how far a stage is, and how long it will take."""

    def __init__(self) -> None:
        self._stage, self._start, self._last = "", 0.0, 0.0

    def __call__(self, event: Prepared) -> None:
        """Print what the event says, if it is time."""
        now = time.monotonic()
        if event.stage != self._stage:
            self._stage, self._start, self._last = event.stage, now, now
        if now - self._last < _SECONDS_BETWEEN_LINES and event.done < event.total:
            return
        self._last = now
        passed = now - self._start
        left = passed / event.done * (event.total - event.done)
        end = f", {clock(left)} left" if event.done < event.total and passed > 1 else ""
        say(f"{_STAGES[event.stage]}: {event.done} of {event.total}{end}")


def _print(report: Report) -> None:
    for skipped in report.skipped[:_SHOWN_SKIPS]:
        say(f"skipped: {printable(skipped.name)}: {skipped.reason}")
    if len(report.skipped) > _SHOWN_SKIPS:
        say(f"skipped: {len(report.skipped) - _SHOWN_SKIPS} more; report.json names them")
    buckets = ", ".join(f"{count} of {name}" for name, count in report.buckets.items())
    print(
        f"{report.folder}: {len(report.samples)} samples ({buckets}), "
        f"{report.video_seconds:.1f} s of video, {len(report.skipped)} skipped; "
        f"{report.seconds:.1f} s, {report.made} encoded now"
    )
