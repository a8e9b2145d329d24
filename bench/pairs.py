"""Two ways to do one thing, timed in turn in one run: A, B, A, B, ...

What else the machine does falls on both sides alike, so ratios hold where single times do not.
Beside the clock stands the processor's time, which other work changes little as long as one thread
computes (several wait for each other by spinning). A side runs in this process (`Here`) or in one
of its own (`Apart`), which also gives it memory of its own and, if wanted, another version of the
package.

    def run() -> object: ...
    faster, slower = Here(run), Apart("rows_denoise:old_clip", {"seed": 0}, path=[folder])
    found = alternate({"ours": faster, "first version": slower}, repeats=7)
    found["ratio"]  # how many times faster the first is than each of the others
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

BENCH = Path(__file__).parent


@dataclass(frozen=True)
class Effort:
    """How a row is to be measured.

    Attributes:
        repeats: timed runs of each side; one run before them is not counted.
        device: where the networks run.
        tiny: small sizes, to see that the code works; such times mean nothing.
    """

    repeats: int = 5
    device: str = "cpu"
    tiny: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table of measurements.

    Attributes:
        name: of its result, `bench/results/NAME.json`.
        what, against, reach: what is measured, compared with what, and the number to reach.
        measure: does it; returns what `alternate` returns and whatever else belongs beside it.
            An entry "reached" says whether the row is where it should be.
        device: the kind of machine it is meant for.
    """

    name: str
    what: str
    against: str
    reach: str
    measure: Callable[[Effort], Mapping[str, Any]]
    device: Literal["cpu", "cuda"] = "cpu"


class Side(Protocol):
    """One of the two ways."""

    def once(self) -> Run:
        """Do the work once."""
        ...

    def close(self) -> None:
        """Let go of what was held."""
        ...


@dataclass(frozen=True)
class Run:
    """One run: its seconds by the clock and by the processor, the most memory held during it, and
    what it returned for JSON."""

    seconds: float
    processor_seconds: float
    peak_bytes: int
    value: Any = None


@dataclass
class Here:
    """A side in this process. Its peak counts everything the process holds, both sides'."""

    work: Callable[[], object]
    device: str = "cpu"

    def once(self) -> Run:
        settle(self.device)
        reset_peak(self.device)
        began, worked = time.perf_counter(), time.process_time()
        value = self.work()
        settle(self.device)
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
        plain = value if is_plain(value) else None
        return Run(seconds, processor, peak_bytes(self.device), plain)

    def close(self) -> None:
        return None


@dataclass
class Apart:
    """A side in a process of its own, kept warm between runs.

    Attributes:
        maker: `module:function` of this folder; called with `settings` it returns the work.
        path: folders searched for modules before all others: another version of the package.
        environment: variables for the process, beside this one's.
    """

    maker: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    path: Sequence[str | Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None

    def once(self) -> Run:
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("run\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.maker} ended with status {process.wait()}")
        return Run(**json.loads(line))

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate("")
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        search = [*map(str, self.path), str(BENCH), os.environ.get("PYTHONPATH", "")]
        return subprocess.Popen(
            [sys.executable, str(BENCH / "apart.py"), self.maker, json.dumps(dict(self.settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment, "PYTHONPATH": os.pathsep.join(search)},
        )


def alternate(sides: Mapping[str, Side | Callable[[], object]], repeats: int = 5) -> dict[str, Any]:
    """Run every side in turn, `repeats` rounds, after one round that is not counted.

    Returns:
        `sides`: times, peaks and last values by name. `ratio`: for each side but the first, how
        many times faster the first is: `median` of medians, `least` and `most` of the rounds,
        each against its own round, and `processor`, of medians of the processor's time.
    """
    ready = {name: side if hasattr(side, "once") else Here(side) for name, side in sides.items()}
    runs: dict[str, list[Run]] = {name: [] for name in ready}
    try:
        for turn in range(repeats + 1):
            for name, side in ready.items():
                run = side.once()  # type: ignore[union-attr]
                if turn:
                    runs[name].append(run)
    finally:
        for side in ready.values():
            side.close()  # type: ignore[union-attr]
    first, *others = runs
    return {
        "sides": {name: summary(found) for name, found in runs.items()},
        "ratio": {other: ratio(runs[first], runs[other]) for other in others},
    }


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Median, least and most of the seconds; the largest peak; the last value."""
    seconds = [run.seconds for run in runs]
    found: dict[str, Any] = {
        "runs": len(runs),
        "median_seconds": round(statistics.median(seconds), 4),
        "min_seconds": round(min(seconds), 4),
        "max_seconds": round(max(seconds), 4),
        "processor_seconds": round(statistics.median(run.processor_seconds for run in runs), 4),
        "peak_mib": round(max(run.peak_bytes for run in runs) / 2**20),
    }
    return found | ({} if runs[-1].value is None else {"value": runs[-1].value})


def ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, float]:
    """How many times faster `ours` is: of the medians, and its spread over the rounds."""
    each = [other.seconds / our.seconds for our, other in zip(ours, theirs, strict=True)]
    medians = [statistics.median(run.seconds for run in runs) for runs in (ours, theirs)]
    worked = [statistics.median(run.processor_seconds for run in runs) for runs in (ours, theirs)]
    return {
        "median": round(medians[1] / medians[0], 3),
        "least": round(min(each), 3),
        "most": round(max(each), 3),
        "processor": round(worked[1] / max(worked[0], 1e-9), 3),
    }


def is_plain(value: object) -> bool:
    """Whether a value can stand in a JSON file."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return value is not None


def settle(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def reset_peak(device: str) -> None:
    """Let the peak begin at what is held now."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """The most memory held since `reset_peak`: the device's tensors, or the process's resident
    memory (where the kernel cannot reset that: since the process began)."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 2**10
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
