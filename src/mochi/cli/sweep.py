"""`mochi sweep`: many requests, one model, loaded once."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli import ranks
from mochi.cli import speed as fast
from mochi.cli.adapters import asked_loras
from mochi.cli.app import exit_code_of
from mochi.cli.naming import slug
from mochi.cli.progress import progress
from mochi.cli.say import say
from mochi.core.errors import Cancelled, MochiError, OutputError, RequestError, VideoError
from mochi.core.events import CancelToken, Notice, OnEvent
from mochi.core.request import GenerateRequest
from mochi.pipeline.settings import FIELDS

if TYPE_CHECKING:
    from mochi.pipeline.pipeline import Pipeline

_PROMPTS_AT_ONCE = 32
_MAX_LINE_CHARS = 100_000
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

Requests = Annotated[
    Path,
    typer.Argument(
        help="A JSON object a line, with a request's fields: prompt, seed, frames ... and output.",
        metavar="FILE.jsonl",
        show_default=False,
    ),
]
Folder = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="Where the videos go; made if it does not exist.",
        metavar="DIR",
        rich_help_panel=o.FILES,
    ),
]
Ending = Annotated[
    str,
    typer.Option(
        "--format",
        help="Ending of the videos that name no output: mp4, webm or gif.",
        metavar="NAME",
        rich_help_panel=o.FILES,
    ),
]


@dataclass(frozen=True)
class Line:
    """A line of the file: a request and where its video goes, or what is wrong with it."""

    number: int
    request: GenerateRequest | None = None
    output: Path = Path()
    error: MochiError | None = None


@dataclass(frozen=True)
class Done:
    """What became of a line, as it is reported."""

    line: int
    status: str
    output: str | None = None
    error: str | None = None
    seconds: float | None = None
    exit_code: int = 0


def sweep(
    context: typer.Context,
    requests: Requests,
    output: Folder = Path("sweep"),
    ending: Ending = "mp4",
    preset: o.Preset = None,
    overwrite: o.Overwrite = False,
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
    quiet: o.Quiet = False,
    json_output: o.Json = False,
) -> int:
    """Make a video of each line of a file.

    A bad line is reported and the rest goes on. Run it again to go on where it stopped: a video
    that is there, made by the same request, is not made twice. A line without a seed has seed 0.
    Exit code: 0 all done, 2 some lines are bad, 1 some failed.

    [dim]Example:[/dim]  mochi sweep requests.jsonl --output videos
    """
    ranks.check_devices(context, joins=False)
    o.check_early({}, preset, Path(f"any.{ending}"))
    loras, texts = asked_loras(lora, lora_mode), _read(requests)
    parts = o.model_parts(context)
    with progress(quiet or json_output) as listen:
        pipe = o.load(model, device, dtype, text_dtype, listen, loras, parts)
        _make_folder(output)
        naming = Naming(output, f".{ending}", preset, pipe.parts.loras.record())
        lines = [naming.line(number, text, pipe) for number, text in texts]
        worst = 0
        for done in run_lines(pipe, lines, overwrite, listen, context.obj):
            _report(done, requests, json_output, listen)
            worst = done.exit_code if worst != 1 and done.exit_code else worst
    return worst


class Naming:
    """Lines of JSON to checked requests with an output each."""

    def __init__(self, folder: Path, suffix: str, preset: str | None, loras: object = None):
        self._folder, self._suffix, self._preset = folder, suffix, preset
        self._worn = json.dumps(loras) if loras else ""
        self._taken: dict[Path, int] = {}

    def line(self, number: int, text: str, pipe: Pipeline) -> Line:
        """One line, checked; its error is kept, not raised."""
        try:
            fields = _parse(text)
            output = fields.pop("output", None)
            request = self._request(fields, pipe)
            path = self._output(output, request)
            if path in self._taken:
                first = self._taken[path]
                raise RequestError("output", path.name, f"is what line {first} makes too")
        except MochiError as error:
            return Line(number, error=error)
        self._taken[path] = number
        return Line(number, request, path)

    def _request(self, fields: dict[str, Any], pipe: Pipeline) -> GenerateRequest:
        if fields.get("model", pipe.name) != pipe.name:
            raise RequestError("model", fields["model"], "is not this sweep's model", pipe.name)
        fields.pop("model", None)
        for name, value in fields.items():
            if name not in FIELDS:
                raise RequestError(name, value, "is no field", ", ".join([*FIELDS, "output"]))
        fields = {"preset": self._preset, "seed": 0} | _said(fields)
        return pipe.request(fields.pop("prompt", ""), **fields)

    def _output(self, given: object, request: GenerateRequest) -> Path:
        from mochi.video.formats import target_of

        if given is None:
            content = json.dumps(request.to_dict()) + self._worn
            digest = hashlib.sha256(content.encode()).hexdigest()[:8]
            return (
                self._folder / f"{slug(request.prompt)}-seed{request.seed}-{digest}{self._suffix}"
            )
        if not isinstance(given, str) or Path(given).name != given:
            raise RequestError("output", given, "is not the name of a file in the sweep's folder")
        target_of(given)
        return self._folder / given


def run_lines(
    pipe: Pipeline, lines: Sequence[Line], overwrite: bool, listen: OnEvent, cancel: CancelToken
) -> Iterator[Done]:
    """Run the good lines in order; says of every line what became of it.

    Raises:
        Cancelled: somebody asked; what was finished stays.
        OutputError: the disk is full.
    """
    todo = []
    for line in lines:
        if line.request is None:
            yield _failed(line)
        elif not overwrite and _is_there(line, pipe):
            yield Done(line.number, "there", str(line.output))
        else:
            todo.append(line)
    for start in range(0, len(todo), _PROMPTS_AT_ONCE):
        group = todo[start : start + _PROMPTS_AT_ONCE]
        pipe.prepare_prompts([text for line in group for text in _prompts(line)])
        for line in group:
            yield _run(pipe, line, overwrite, listen, cancel)


def _run(pipe: Pipeline, line: Line, overwrite: bool, listen: OnEvent, cancel: CancelToken) -> Done:
    assert line.request is not None
    try:
        rendered = pipe.generate_to(
            line.output, line.request, overwrite=overwrite, on_event=listen, cancel=cancel
        )
    except Cancelled:
        raise
    except MochiError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _DISK_FULL:
            raise  # every later line would lose its work too
        return _failed(replace(line, error=error))
    seconds = round(sum(rendered.seconds.values()), 3)
    return Done(line.number, "made", str(line.output), seconds=seconds)


def _failed(line: Line) -> Done:
    assert line.error is not None
    status = "bad" if isinstance(line.error, RequestError) else "failed"
    return Done(line.number, status, error=str(line.error), exit_code=exit_code_of(line.error))


def _is_there(line: Line, pipe: Pipeline) -> bool:
    """Whether the output exists and holds this very request, made with the same adapters."""
    from mochi.video.metadata import read_request

    assert line.request is not None
    if not line.output.exists():
        return False
    try:
        record = read_request(line.output)
    except VideoError:
        return False  # writing will refuse to replace it, and say so
    same = record.get("loras") == pipe.parts.loras.record()
    return same and bool(record.get("request") == line.request.to_dict())


def _prompts(line: Line) -> tuple[str, str]:
    assert line.request is not None
    return line.request.prompt, line.request.negative_prompt


def _read(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1.

    Raises:
        RequestError: no such file, not text, or nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError("requests", str(path), f"cannot be read: {error}") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise RequestError("requests", str(path), "holds no requests")
    return lines


def _parse(text: str) -> dict[str, Any]:
    if len(text) > _MAX_LINE_CHARS:
        raise RequestError("line", text, f"has more than {_MAX_LINE_CHARS} characters")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError("line", text, f"is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError("line", text, "is no JSON object")
    return fields


def _said(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error


def _report(done: Done, requests: Path, as_json: bool, listen: OnEvent) -> None:
    if as_json:
        report = {"line": done.line, "status": done.status, "output": done.output}
        print(json.dumps(report | {"error": done.error, "seconds": done.seconds}), flush=True)
    elif done.error is not None:
        say(f"error: {requests}:{done.line}: {done.error}")
    else:
        took = "is there already" if done.seconds is None else f"{done.seconds:.1f} s"
        listen(Notice(f"{requests}:{done.line}: {done.output}: {took}"))
