"""What `cpu.py` and `gpu.py` share: gather rows, measure them, keep and show their results."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from machine import describe
from pairs import BENCH, Effort, Row

RESULTS = BENCH / "results"
TUNABLES = ("OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def gather(device: Literal["cpu", "cuda"]) -> Iterator[Row]:
    """The rows of every `rows_*.py` for one kind of machine."""
    for path in sorted(BENCH.glob("rows_*.py")):
        rows: Sequence[Row] = importlib.import_module(path.stem).rows()
        yield from (row for row in rows if row.device == device)


def keep(row: Row, found: dict[str, Any]) -> Path:
    """Write a result with all that must stand beside it."""
    report = {
        "what": row.what,
        "against": row.against,
        "reach": row.reach,
        **found,
        "command": shlex.join(["python", *sys.argv]),
        "environment": {name: os.environ[name] for name in TUNABLES if name in os.environ},
        "machine": describe(),
    }
    path = RESULTS / f"{row.name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path


def table(rows: Sequence[Row]) -> str:
    """All rows with their last results, as Markdown."""
    lines = ["| what | against | reach | measured |", "|---|---|---|---|"]
    for row in rows:
        path = RESULTS / f"{row.name}.json"
        result = in_short(json.loads(path.read_text())) if path.exists() else "not yet measured"
        lines.append(f"| {row.what} | {row.against} | {row.reach} | {result} |")
    return "\n".join(lines)


def in_short(found: dict[str, Any]) -> str:
    """The ratios of a result, with their spread."""
    parts = [
        f"{ratio['median']:.2f}x ({ratio['least']:.2f} to {ratio['most']:.2f}) vs {other}"
        for other, ratio in found.get("ratio", {}).items()
    ]
    return "; ".join([*parts, *found.get("notes", [])]) or "see the file"


def run(device: Literal["cpu", "cuda"], about: str) -> None:
    """The command line of both scripts."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="rows to measure; all when none is named")
    parser.add_argument("--list", action="store_true", help="show the rows and their last results")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side")
    parser.add_argument("--threads", type=int, help="of PyTorch, in this process")
    parser.add_argument(
        "--tiny", action="store_true", help="small sizes on the CPU, nothing is kept"
    )
    options = parser.parse_args()
    rows = list(gather(device))
    if options.list:
        sys.stdout.write(table(rows) + "\n")
        return
    unknown = set(options.names) - {row.name for row in rows}
    if unknown:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    effort = Effort(options.repeats, "cpu" if options.tiny else device, options.tiny)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    for row in rows:
        if options.names and row.name not in options.names:
            continue
        began = time.perf_counter()
        found = dict(row.measure(effort))
        where = "" if options.tiny else f" -> {keep(row, found).name}"
        took = time.perf_counter() - began
        sys.stdout.write(f"{row.name}: {in_short(found)} [{took:.0f} s]{where}\n")
        sys.stdout.flush()
