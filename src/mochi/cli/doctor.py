"""`mochi doctor`: what this machine can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mochi.cli import options as o
from mochi.cli.say import print_json

if TYPE_CHECKING:
    from mochi.pipeline.survey import Machine, ModelState

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="A folder to look at too; may be given again.",
        metavar="DIR",
        rich_help_panel=o.MACHINE,
    ),
]


Plan = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="What each stage of a video takes in each memory mode, and how long; measures this "
        "machine's speed once.",
        rich_help_panel=o.MACHINE,
    ),
]


def doctor(
    models: Models = None,
    device: o.Device = "auto",
    plan: Plan = False,
    frames: o.Frames = None,
    height: o.Height = None,
    width: o.Width = None,
    steps: o.Steps = None,
    dtype: o.Dtype = "auto",
    text_dtype: o.TextDtype = "float32",
    json_output: o.Json = False,
) -> None:
    """Look at the machine: memory, devices, versions, models, and what fits.

    [dim]Example:[/dim]  mochi doctor --plan --model models/mochi-1 --frames 85
    """
    if plan:
        sizes = {"frames": frames, "height": height, "width": width, "steps": steps}
        _tell_plans(models or ["nano"], (device, dtype, text_dtype), sizes, json_output)
        return
    from mochi.pipeline.survey import survey_machine, survey_models

    machine, states = survey_machine(), survey_models(models or [], device)
    if json_output:
        print_json({"machine": asdict(machine), "models": [asdict(state) for state in states]})
        return
    for line in [*_machine_lines(machine), "", *_model_lines(states)]:
        print(line)


def _tell_plans(
    models: list[str], how: tuple[str, str, str], sizes: dict[str, Any], json_output: bool
) -> None:
    """Print the plans of some models, all of the same video."""
    from mochi.cli.plans import plan_lines
    from mochi.cli.rates import add_rates
    from mochi.pipeline.survey import parallel_advice

    o.check_early(sizes)
    found, advice = {}, {}
    for model in models:
        pipe = o.load(model, *how)
        add_rates(pipe)
        found[model] = pipe.plans("any", seed=0, **sizes)
        advice[model] = parallel_advice(pipe)
    if json_output:
        plans = {name: {m: p.to_dict() for m, p in each.items()} for name, each in found.items()}
        print_json({"plans": plans})
        return
    for name, each in found.items():
        print("\n".join(plan_lines(name, each)))
        if advice[name]:
            print(advice[name])


def _machine_lines(machine: Machine) -> Iterator[str]:
    yield f"mochi    {machine.mochi} on Python {machine.python}"
    yield f"machine  {machine.system}, {machine.cores} cores"
    total, free = machine.memory_bytes, machine.available_bytes
    yield f"memory   {gib(total)}, {gib(free)} available to this process"
    for device in machine.devices:
        free = device.available_bytes
        yield f"device   {device.name}: {device.description}, {gib(free)} available"
        attention, dtypes = ", ".join(device.attention), ", ".join(device.dtypes)
        yield f"         kernels {device.kernels}; attention {attention}; computes in {dtypes}"
    yield "uses     " + ", ".join(f"{name} {text}" for name, text in machine.packages.items())


def _model_lines(states: list[ModelState]) -> Iterator[str]:
    if not states:
        yield "model    none here; `mochi weights download genmo/mochi-1-preview` fetches one"
    for state in states:
        if state.problem:
            yield f"model    {state.name}: cannot be used: {state.problem}"
            continue
        yield f"model    {state.name}: {gib(state.weights_bytes)} in {state.folder}"
        if state.fits is None:
            yield f"         {state.default} by default; no size fits this device"
        elif state.fits == state.default:
            yield f"         {state.default} by default, which fits"
        else:
            yield f"         {state.default} by default; {state.fits} fits"


def gib(size: int) -> str:
    """Bytes to read."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
