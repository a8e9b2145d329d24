"""`mochi reconstruct`: a video through the VAE and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mochi.cli import options as o
from mochi.cli.progress import progress
from mochi.cli.say import print_json
from mochi.core.sizes import PIXEL_MULTIPLE, VideoSize, nearest_frames

if TYPE_CHECKING:
    from mochi.pipeline.run import TakeFrames
    from mochi.video.reader import VideoInfo

Video = Annotated[
    Path, typer.Argument(help="Any video, or a folder of PNG frames.", metavar="VIDEO")
]
Copy = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Keep the copy: .mp4, .webm, .gif or a folder for PNG frames.",
        metavar="FILE",
        rich_help_panel=o.FILES,
    ),
]


def reconstruct(
    context: typer.Context,
    video: Video,
    output: Copy = None,
    frames: o.Frames = None,
    height: o.Height = None,
    width: o.Width = None,
    fps: o.Fps = None,
    overwrite: o.Overwrite = False,
    model: o.Model = None,
    vae: o.Vae = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    memory: o.Memory = "auto",
    quiet: o.Quiet = False,
    json_output: o.Json = False,
) -> None:
    """Send a video through the VAE and back: what the compression alone costs, as PSNR in dB.

    The size is the video's own, cut down to multiples of 16 and 6k+1 frames, unless given.

    [dim]Example:[/dim]  mochi reconstruct holiday.mp4 --frames 25 --output copy.mp4
    """
    sizes = {"frames": frames, "height": height, "width": width, "fps": fps}
    o.check_early(sizes, output=output)
    from mochi.video.reader import probe, read_video

    info = probe(video)
    size = _size(info, fps, frames, height, width)
    with progress(quiet or json_output) as listen:
        pipe = o.load(model, device, dtype, "float32", listen, parts=o.model_parts(context))
        pipe.budget.check_round_trip(size)
        original = read_video(video, size, fps=fps)
        rate = fps or round(info.fps, 3)
        with _kept(output, rate, size, overwrite) as take:
            decibels = pipe.reconstruct(original, take, listen, context.obj)
    if json_output:
        known = None if math.isinf(decibels) else round(decibels, 3)
        print_json({"output": output and str(output), "psnr_db": known})
    elif not quiet:
        print(f"{output or video}: {size}, PSNR {decibels:.2f} dB")


@contextmanager
def _kept(
    output: Path | None, fps: float, size: VideoSize, overwrite: bool
) -> Iterator[TakeFrames]:
    """Where the copy's frames go: into a file, or nowhere."""
    if output is None:
        yield lambda frames: None
        return
    from mochi.video.writer import open_writer

    with open_writer(output, fps, (size.height, size.width), overwrite=overwrite) as writer:
        yield writer.write


def _size(
    info: VideoInfo, fps: int | None, frames: int | None, height: int | None, width: int | None
) -> VideoSize:
    """What was asked for; for the rest the largest legal size inside the video.

    Raises:
        RequestError: what was asked for breaks a rule.
    """
    shown = info.frames if fps is None else int(info.seconds * fps)
    return VideoSize(
        frames or nearest_frames(shown)[0],
        height or info.height // PIXEL_MULTIPLE * PIXEL_MULTIPLE or PIXEL_MULTIPLE,
        width or info.width // PIXEL_MULTIPLE * PIXEL_MULTIPLE or PIXEL_MULTIPLE,
    )
