"""A training on several devices of this machine: the same config, the same losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mochi.core.errors import RequestError
from mochi.core.events import CancelToken
from mochi.parallel.crew import Crew
from mochi.parallel.local import LocalRanks
from mochi.parallel.meeting import hold_meeting
from mochi.pipeline.devices import pick_device, present_devices
from mochi.training.config import Config
from mochi.training.events import Reporter
from mochi.training.rank import Opening

PROGRAM = "mochi.training.rank"


def devices_for(device: str, count: int, config: Config) -> list[str]:
    """The devices of so many processes: GPUs of their own, or shares of the processor.

    Raises:
        RequestError: there are not so many, or they do not make whole rows.
    """
    kind = pick_device(device).type
    there = [name for name in present_devices() if name.startswith(kind)]
    if kind != "cpu" and count > len(there):
        rule = f"is more than there are ({', '.join(there)})"
        raise RequestError("devices", count, rule, len(there))
    context = config.training.context
    if count % context:
        rule = f"does not make whole rows of training.context={context}"
        raise RequestError("devices", count, rule, max(context, count // context * context))
    if count // context > config.training.batch:
        rule = f"are {count // context} rows, and a step has training.batch={config.training.batch}"
        raise RequestError("devices", count, rule, config.training.batch * context)
    return ["cpu"] * count if kind == "cpu" else there[:count]


def finetune_on(
    config: Config,
    devices: Sequence[str],
    reporters: Sequence[Reporter] = (),
    cancel: CancelToken | None = None,
) -> Path:
    """As `finetune`, with a process for each device; if one of them fails, all end.

    Args:
        config: of the training.
        devices: from `devices_for`.
        reporters: are told what the first process tells, here.
        cancel: stops the training.

    Raises:
        RankError: a process died or hangs. The last checkpoint is whole.
        MochiError: as `finetune`.
    """
    store, meeting = hold_meeting()
    size = len(devices)
    threads = max(1, torch.get_num_threads() // size)
    openings = {
        rank: {"opening": Opening(config, rank, size, device, meeting, threads)}
        for rank, device in enumerate(devices)
    }

    def take(rank: int, kind: str, content: dict[str, Any]) -> None:
        if kind == "event" and rank == 0:
            for reporter in reporters:
                reporter(content["event"])

    crew = Crew(LocalRanks(PROGRAM, openings))
    try:
        answers = crew.collect("done", take, cancel)
    finally:
        crew.end()
        del store
    path: Path = answers[0]["path"]
    return path
