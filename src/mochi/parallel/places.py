"""Where a process stands that somebody else started: torchrun, or Slurm. Imports no torch."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from mochi.core.errors import RequestError

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_FIRST_PORT, _PORTS = 20_000, 12_000  # below those that Linux gives out by itself


@dataclass(frozen=True)
class Place:
    """One process of a run on many devices.

    Attributes:
        rank, size: its number and how many there are.
        local_rank, local_size: likewise on its machine.
        host, port: where all meet.
        run: tells this run from others that meet there.
        hosts: whether this process holds the meeting.
        starter: who started it.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int
    run: str
    hosts: bool
    starter: str

    @property
    def leads(self) -> bool:
        """Whether it is the first."""
        return self.rank == 0

    @property
    def machines(self) -> int:
        """On how many machines, if each has as many."""
        return max(1, self.size // self.local_size)


def place_in(environment: Mapping[str, str]) -> Place | None:
    """The place that an environment gives a process; None where it is on its own.

    Raises:
        RequestError: something is missing, or no number.
    """
    if any(name in environment for name in ("RANK", "WORLD_SIZE")):
        return _of_torchrun(environment)
    # srun sets both; the script of a batch job, which runs once, has no number of tasks of a step.
    if "SLURM_PROCID" in environment and environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _of_slurm(environment)
    return None


def _of_torchrun(environment: Mapping[str, str]) -> Place | None:
    missing = [name for name in _TORCHRUN if name not in environment]
    if missing:
        rule = f"is not in the environment, and {_there(environment)} is: torchrun sets all of them"
        raise RequestError(missing[0], "", rule, ", ".join(_TORCHRUN))
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    run = environment.get("TORCHELASTIC_RUN_ID", "none")
    restart = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return _checked(
        Place(
            rank,
            size,
            _number(environment, "LOCAL_RANK", rank),
            _number(environment, "LOCAL_WORLD_SIZE", size),
            environment["MASTER_ADDR"],
            _number(environment, "MASTER_PORT"),
            run=f"mochi/{run}/{restart}",
            hosts=rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
            starter="torchrun" if "TORCHELASTIC_RUN_ID" in environment else "the environment",
        )
    )


def _of_slurm(environment: Mapping[str, str]) -> Place:
    rank, size = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_STEP_NUM_TASKS")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    job = f"{environment.get('SLURM_JOB_ID', '0')}.{environment.get('SLURM_STEP_ID', '0')}"
    port = _FIRST_PORT + zlib.crc32(job.encode()) % _PORTS  # two steps of a job have two
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get(
        "SLURM_TASKS_PER_NODE", str(size)
    )
    each = re.match(r"\d+", tasks)
    return _checked(
        Place(
            rank,
            size,
            _number(environment, "SLURM_LOCALID", 0),
            int(each.group()) if each else size,
            environment.get("MASTER_ADDR") or first_node(nodes) or "127.0.0.1",
            _number(environment, "MASTER_PORT", port),
            run=f"mochi/{job}",
            hosts=rank == 0,
            starter="Slurm",
        )
    )


def first_node(nodes: str) -> str:
    """The first of Slurm's list: `gpu[03-07,11],login` is `gpu03`."""
    found = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    assert found is not None
    return "".join(part or "" for part in found.groups())


def _checked(place: Place) -> Place:
    if not 0 <= place.rank < place.size:
        raise RequestError("RANK", place.rank, f"is not from 0 to {place.size - 1}", 0)
    return place


def _number(environment: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = environment.get(name)
    if text is None and otherwise is not None:
        return otherwise
    if text is None or not text.isdecimal():
        raise RequestError(name, text or "", "in the environment is no whole number", 0)
    return int(text)


def _there(environment: Mapping[str, str]) -> str:
    return next(name for name in _TORCHRUN if name in environment)
