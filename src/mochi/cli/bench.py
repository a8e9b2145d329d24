"""`mochi bench`: how fast this machine's devices are together, and what they send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli.say import print_json
from mochi.core.errors import RequestError
from mochi.parallel.scheme import Scheme, schemes

if TYPE_CHECKING:
    from mochi.parallel.trial import Found, Trial

bench = typer.Typer(
    help="Measure this machine.\n\n"
    "[dim]Example:[/dim]  mochi bench parallel --devices 2 --device cpu",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Devices = Annotated[int, typer.Option(help="How many devices.", metavar="N")]
Schemes = Annotated[
    list[str] | None,
    typer.Option(
        "--parallel",
        help="A scheme, as guidance=2,ulysses=4,ring=1; may be given again. All there are, if none "
        "is given.",
        metavar="SCHEME",
    ),
]
Tokens = Annotated[int, typer.Option(help="Of the prompt; the negative one is empty.", metavar="N")]
Overlap = Annotated[
    bool, typer.Option(help="Whether tokens travel while others are computed; exact either way.")
]
Repeats = Annotated[int, typer.Option(help="Timed steps; the median counts.", metavar="N", min=1)]


@bench.callback()
def about() -> None:
    """Measure this machine."""


@bench.command()
def parallel(
    devices: Devices = 2,
    schemes_asked: Schemes = None,
    model: o.Model = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    frames: o.Frames = None,
    height: o.Height = None,
    width: o.Width = None,
    tokens: Tokens = 20,
    overlap: Overlap = True,
    repeats: Repeats = 5,
    json_output: o.Json = False,
) -> None:
    """A guided step on several devices: seconds, and bytes sent beside what the formulae say.

    The weights are drawn at random; of a model, only its sizes are read.

    [dim]Example:[/dim]  mochi bench parallel --devices 4 --device cpu --parallel ulysses=4
    """
    if dtype not in ("float32", "bfloat16"):
        raise RequestError("dtype", dtype, "has to be said here", "float32, bfloat16")
    if devices < 2:
        raise RequestError("devices", devices, "have nothing to send to each other", 2)
    from mochi.parallel.trial import Trial, Trials
    from mochi.pipeline.devices import pick_devices

    places = [str(place) for place in pick_devices(device, devices)]
    pipe = o.load(model, device, "auto", "float32")
    asked = {"frames": frames, "height": height, "width": width}
    given: Any = {name: value for name, value in asked.items() if value is not None}
    size = pipe.request("a step", **given).size
    config = pipe.parts.blueprint("dit").config
    if not 0 <= tokens <= config.text_tokens:
        raise RequestError("tokens", tokens, "is more than the model takes", config.text_tokens)
    chosen = [Scheme.parse(text).check(devices, config.heads) for text in schemes_asked or ()]
    latent = size.latent.shape(1, config.latent_channels)
    alone = Trial(config, Scheme(), latent, (tokens, 0), dtype, overlap, repeats)
    with Trials(places) as trials:
        rows = list(_rows(trials, alone, chosen or schemes(devices, config.heads)))
    if json_output:
        print_json({"size": str(size), "rows": [asdict(row) for row in rows]})
        return
    for line in _table(str(size), rows):
        typer.echo(line)


@dataclass(frozen=True)
class Row:
    """A scheme's figures.

    Attributes:
        scheme: as it is written.
        seconds: median of a step, on the slowest rank.
        faster: how many times faster than one device, while the others do the same.
        sent, expected: bytes of the rank that sends most, in a step, by what they were for.
    """

    scheme: str
    seconds: float
    faster: float
    sent: dict[str, int]
    expected: dict[str, int]


def _rows(trials: Any, alone: Trial, chosen: list[Scheme]) -> Iterator[Row]:
    from dataclasses import replace

    single = _seconds(trials.step(alone))
    yield Row("one device", single, 1.0, {}, {})
    for scheme in chosen:
        trial = replace(alone, scheme=scheme)
        found = trials.step(trial)
        most = max(range(len(found)), key=lambda rank: sum(found[rank].sent.values()))
        seconds = _seconds(found)
        sent, expected = found[most].sent, trial.expected(most)
        yield Row(str(scheme), seconds, single / seconds, sent, expected)


def _seconds(found: list[Found]) -> float:
    """The median of the slowest rank."""
    return max(sorted(each.seconds)[len(each.seconds) // 2] for each in found)


def _table(size: str, rows: list[Row]) -> Iterator[str]:
    yield f"a guided step of {size}; bytes of the rank that sends most"
    yield f"{'':32}{'seconds':>10}{'faster':>8}{'sent':>16}{'by formula':>16}"
    for row in rows:
        sent, expected = sum(row.sent.values()), sum(row.expected.values())
        counts = f"{sent:>16,}{expected:>16,}" if row.sent else f"{'-':>16}{'-':>16}"
        equal = "" if row.sent == row.expected else "  they differ"
        yield f"{row.scheme:32}{row.seconds:>10.3f}{row.faster:>7.2f}x{counts}{equal}"
        for purpose, size_sent in row.sent.items():
            yield f"    {purpose:46}{size_sent:>16,}"
