"""`mochi finetune`: train an adapter, a transformer or a decoder, as a config file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mochi.cli import options as o
from mochi.cli.say import print_json, say

if TYPE_CHECKING:
    from mochi.core.events import CancelToken
    from mochi.training.config import Config
    from mochi.training.events import TrainingEvent

ConfigFile = Annotated[
    Path,
    typer.Argument(help="A TOML file; --init writes one.", metavar="CONFIG", show_default=False),
]
Init = Annotated[
    bool, typer.Option("--init", help="Write a config file with every setting, and stop.")
]
Plan = Annotated[
    bool, typer.Option("--plan", help="Say what memory and time it takes, here and on GPUs; stop.")
]
Devices = Annotated[
    int, typer.Option(help="Processes, each with a device of its own (or cores).", min=1)
]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", min=1)]


def finetune(
    context: typer.Context,
    config: ConfigFile,
    init: Init = False,
    plan: Plan = False,
    device: o.Device = "auto",
    devices: Devices = 1,
    threads: Threads = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    json_output: o.Json = False,
) -> None:
    """Teach a model something new; goes on where it was stopped.

    [dim]Example:[/dim]  mochi finetune --init style.toml
    """
    if init:
        from mochi.training.config_file import write_config

        write_config(config, overwrite)
        if not quiet:
            say(f"wrote {config}; everything in it is explained there")
        return
    from mochi.training.config import read_config

    settings = read_config(config)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if plan or not (quiet or settings.model.train == "decoder"):
        _tell_plan(settings, device, devices, plan, json_output)
    if not plan:
        print(_train(settings, device, devices, context.obj, quiet))


def _tell_plan(config: Config, device: str, devices: int, asked: bool, json_output: bool) -> None:
    from mochi.training.plan import plan_training

    found = plan_training(config, device, devices)
    if asked and json_output:
        print_json(found.to_dict())
    elif asked:
        print(found.text())
    else:
        say(found.line())


def _train(config: Config, device: str, devices: int, token: CancelToken, quiet: bool) -> Path:
    from mochi.cli.training_progress import training_progress
    from mochi.training.finetune import finetune as train
    from mochi.training.many import devices_for, finetune_on
    from mochi.training.reports.all import file_reporters

    def check(event: TrainingEvent) -> None:
        token.check()

    told = config.reports
    others = file_reporters(told.tensorboard, told.wandb or None, told.wandb_mode or None)
    with training_progress(quiet) as shown:
        if devices > 1:
            places = devices_for(device, devices, config)
            return finetune_on(config, places, [*others, shown], token)
        return train(config, device=device, reporters=[*others, shown, check])
