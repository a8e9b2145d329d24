"""Options of videos that several devices make together, and who has started this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mochi.core.errors import RequestError
from mochi.parallel.places import Place, place_in
from mochi.parallel.scheme import Scheme

PANEL = "Many devices"
AUTO = "auto"
LAUNCHERS = ("local", "ray")

Devices = Annotated[
    int,
    typer.Option(
        help="How many devices share one video: GPUs, or processes with --device cpu. The frames "
        "are those of one. Under torchrun or srun: as many as those started.",
        metavar="N",
        rich_help_panel=PANEL,
    ),
]
Parallel = Annotated[
    str,
    typer.Option(
        help="How they share it: [cyan]auto[/cyan], or as guidance=2,ulysses=4,ring=1.",
        metavar="SCHEME",
        rich_help_panel=PANEL,
    ),
]
Shard = Annotated[
    bool,
    typer.Option(
        "--shard",
        help="Each device keeps only a part of the transformer's weights, and gets those of a "
        "block from the others for its turn. For weights that do not fit.",
        rich_help_panel=PANEL,
    ),
]
Launcher = Annotated[
    str,
    typer.Option(
        help="What starts their processes: [cyan]local[/cyan], here; ray, where a Ray cluster has "
        "devices.",
        metavar="NAME",
        rich_help_panel=PANEL,
    ),
]


def check_devices(context: typer.Context, joins: bool = True) -> None:
    """Refuse what no machine could make right. Imports no torch.

    Args:
        context: of the command, with its options.
        joins: whether the command may be one of several processes that somebody started.

    Raises:
        RequestError: the numbers do not go together.
    """
    devices, parallel = context.params["devices"], context.params["parallel"]
    launcher = context.params["launcher"]
    if devices < 1:
        raise RequestError("devices", devices, "is not a positive number", 1)
    if launcher not in LAUNCHERS:
        raise RequestError("launcher", launcher, "is unknown", ", ".join(LAUNCHERS))
    place = _place()
    if place is not None:
        if not joins:
            rule = f"is set by {place.starter}, which this command does not join: start it once"
            raise RequestError("RANK", place.rank, rule, f"--devices {place.size}")
        if devices not in (1, place.size):
            rule = f"is not what {place.starter} started: {place.size} processes"
            raise RequestError("devices", devices, rule, place.size)
        devices = place.size
    if context.params["shard"] and devices == 1:
        raise RequestError("shard", True, "needs several devices to keep the parts", "--devices 2")
    if parallel != AUTO:
        scheme = Scheme.parse(parallel)
        if scheme.devices != devices:
            rule = f"takes {scheme.devices} devices, and there are {devices}"
            raise RequestError("parallel", parallel, rule, f"--devices {scheme.devices}")


def leads() -> bool:
    """Whether this process writes the output: it is the first of those that were started, or the
    only one."""
    place = _place()
    return place is None or place.leads


def sharing_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """What a command was told about devices that share a video, as `mochi.load` takes it.

    Raises:
        RequestError: a device is not there.
        RankError: there is no Ray cluster, or it has not so many devices.
    """
    if "devices" not in params:
        return {}
    place, device = _place(), params["device"]
    shared = {"parallel": params["parallel"], "shard": params["shard"]}
    if place is not None:
        from mochi.pipeline.devices import pick_ranked
        from mochi.pipeline.team import Layout

        here = pick_ranked(device, place.local_rank)
        return {"layout": Layout.at(place, here), **shared}
    if params["launcher"] == "ray":
        from mochi.pipeline.on_ray import ray_layout

        return {"layout": ray_layout(params["devices"], device), **shared}
    return {"devices": params["devices"], **shared}


def _place() -> Place | None:
    place = place_in(os.environ)
    return None if place is None or place.size == 1 else place
