"""`mochi lora`: look into adapters, write them in other flavours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli.say import print_json, printable
from mochi.core.errors import RequestError

if TYPE_CHECKING:
    from mochi.weights.lora import Lora
    from mochi.weights.lora_inspect import PairFacts
    from mochi.weights.lora_read import LayerSizes
    from mochi.weights.lora_report import LoraReport

lora = typer.Typer(
    help="Look into adapters (LoRA), and write them in other flavours.\n\n"
    "[dim]Example:[/dim]  mochi lora inspect style.safetensors",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_FLAVOURS = ("original", "comfy", "diffusers")
_DTYPES = ("float32", "bfloat16", "float16")

Source = Annotated[
    str,
    typer.Argument(
        help="An adapter: a file of any flavour, a folder as peft writes it, or a name on the hub.",
        metavar="LORA",
        show_default=False,
    ),
]
Destination = Annotated[
    Path,
    typer.Argument(help="The .safetensors file to write.", metavar="FILE", show_default=False),
]
To = Annotated[
    str, typer.Option(help=f"{', '.join(_FLAVOURS)}.", metavar="FLAVOUR", show_default=False)
]
Dtype = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(_DTYPES)}; kept as it is by default.", metavar="DTYPE"),
]
Depth = Annotated[
    int | None,
    typer.Option(
        help="Blocks of the model, where an adapter of its text modulation does not tell.",
        metavar="N",
        min=1,
    ),
]
Fits = Annotated[
    str | None,
    typer.Option(help="Compare with the layers of this model, by name or folder.", metavar="NAME"),
]


@lora.command()
def convert(
    source: Source,
    destination: Destination,
    to: To,
    dtype: Dtype = None,
    depth: Depth = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
) -> None:
    """Write an adapter in another flavour: original, ComfyUI, or diffusers and peft.

    [dim]Example:[/dim]  mochi lora convert style.safetensors style-comfy.safetensors --to comfy
    """
    _one_of("to", to, _FLAVOURS)
    _one_of("dtype", dtype or "float32", _DTYPES)
    import torch

    from mochi.weights.lora_read import read_lora
    from mochi.weights.lora_write import save_lora

    found = read_lora(_found(source))
    number_type = getattr(torch, dtype) if dtype else None
    save_lora(found, destination, to, dtype=number_type, depth=depth, overwrite=overwrite)  # type: ignore[arg-type]
    if not quiet:
        print(f"{destination}: {_summary(read_lora(destination))}")


@lora.command()
def inspect(source: Source, model: Fits = None, json_output: o.Json = False) -> int:
    """Show what is inside an adapter: flavour, ranks, layers, norms, what is suspicious.

    Exit code: 0 where all is well, 1 where something is broken, suspicious, or does not fit.

    [dim]Example:[/dim]  mochi lora inspect style.safetensors --model nano
    """
    from mochi.weights.lora_inspect import facts_of, suspicious
    from mochi.weights.lora_read import scan_lora

    found, report = scan_lora(_found(source), _sizes(model) if model else None)
    facts = facts_of(found)
    if json_output:
        print_json(_as_json(found, facts, report))
    else:
        _print(found, facts, report)
    return 0 if report.ok and not suspicious(facts) else 1


def _found(source: str) -> Path:
    from mochi.pipeline.models import find_lora

    return find_lora(source)[0]


def _sizes(model: str) -> LayerSizes:
    from mochi.pipeline.models import find_model
    from mochi.weights.loading import load_dit
    from mochi.weights.lora_read import layer_sizes

    files = find_model(model)
    return layer_sizes(load_dit(files.part("dit"), device="meta", check_finite=False))


def _summary(found: Lora) -> str:
    ranks, alphas = (",".join(f"{n:g}" for n in values) for values in (found.ranks, found.alphas))
    millions = found.parameters / 1e6
    return (
        f"{found.flavour}, {len(found.layers)} layers, rank {ranks}, alpha {alphas}, "
        f"{millions:.2f} M parameters"
    )


def _print(found: Lora, facts: tuple[PairFacts, ...], report: LoraReport) -> None:
    print(f"{found.path}: {_summary(found)}")
    widest = max((len(_name(fact)) for fact in facts), default=0)
    for fact in facts:
        print(
            f"  {_name(fact):<{widest}}  {fact.inputs} -> {fact.outputs}  rank {fact.rank}, "
            f"alpha {fact.alpha:g}, {fact.dtype}, change {fact.norm:.3g} "
            f"(A {fact.norm_a:.3g}, B {fact.norm_b:.3g})"
        )
    for fact in facts:
        for note in fact.notes:
            print(f"suspicious: {_name(fact)}: {note}")
    if not report.ok:
        print("does not fit: " + "\n".join(map(printable, str(report).splitlines())))


def _name(fact: PairFacts) -> str:
    return fact.layer if fact.parts == 1 else f"{fact.layer} {fact.part + 1}/{fact.parts}"


def _as_json(found: Lora, facts: tuple[PairFacts, ...], report: LoraReport) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "sha256": found.sha256,
        "flavour": found.flavour,
        "ranks": found.ranks,
        "alphas": found.alphas,
        "parameters": found.parameters,
        "layers": [_finite(asdict(fact)) for fact in facts],
        "problems": [asdict(problem) for problem in report.problems],
        "metadata": dict(found.metadata),
    }


def _finite(facts: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN: null stands for a norm that is none."""
    return {k: None if isinstance(v, float) and v - v != 0 else v for k, v in facts.items()}


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RequestError(field, value, "is unknown", ", ".join(known))
