"""Conversion of a transformer of two billion parameters: seconds, and the memory it takes.

    python bench/convert.py --output bench/results/convert.json

A file with the published widths and 10 blocks (bfloat16, 4.3 GB) is written to a temporary folder,
converted by `mochi weights convert` in processes of their own, and deleted. Memory is read from
outside, fifty times a second: what the process owns (`RssAnon`) and what it holds in all, pages of
mapped files included (`VmHWM`). A plain copy of the file, timed in the same rounds, says how fast
the disk is at the time.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import describe
from synthetic import planned, write

from mochi.core.config import MOCHI_1, T5Size

DEPTH = 10
CONVERSIONS: dict[str, list[str]] = {
    "original to diffusers, bfloat16 kept": ["--to", "diffusers"],
    "original to gguf, q4_0": ["--to", "gguf", "--quantize", "q4_0"],
    "original to gguf, q8_0": ["--to", "gguf", "--quantize", "q8_0"],
    "original to ComfyUI, fp8 with scales": ["--to", "comfy", "--quantize", "fp8"],
}
NOTHING = ["weights", "verify", "--help"]


def watched(command: list[str]) -> dict[str, float]:
    """Run a command; its seconds and its memory, as another process sees it."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    own = held = 0
    while process.poll() is None:
        text = status.read_text()
        own, held = max(own, _kib(text, "RssAnon")), max(held, _kib(text, "VmHWM"))
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"{shlex.join(command)} ended with {process.returncode}")
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "own_mib": own / 2**10, "held_mib": held / 2**10}


def _kib(status: str, name: str) -> int:
    """A line of /proc/PID/status; 0 at the very end, when the memory has gone already."""
    found = status.partition(f"{name}:")[2].split()
    return int(found[0]) if found else 0


def mochi(*words: str) -> list[str]:
    """The command line of `mochi`."""
    return [sys.executable, "-m", "mochi", *words]


def measure(source: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    """Every conversion and the copy, in turn."""
    runs: dict[str, list[dict[str, float]]] = {}
    sizes: dict[str, int] = {}
    for _ in range(rounds):
        runs.setdefault("a plain copy", []).append({"seconds": _copied(source, scratch)})
        for name, words in CONVERSIONS.items():
            target = scratch / "converted"
            command = mochi("weights", "convert", str(source), str(target), *words, "--quiet")
            runs.setdefault(name, []).append(watched(command))
            sizes[name] = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
            shutil.rmtree(target)
    found = {name: _summary(taken) for name, taken in runs.items()}
    for name, size in sizes.items():
        found[name]["written_gb"] = round(size / 1e9, 2)
    return found


def _copied(source: Path, scratch: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["cp", str(source), str(scratch / "copy")], check=True)
    subprocess.run(["sync", str(scratch / "copy")], check=True)  # as the conversions do
    seconds = time.perf_counter() - began
    (scratch / "copy").unlink()
    return seconds


def _summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    seconds = [run["seconds"] for run in runs]
    found: dict[str, Any] = {
        "runs": len(runs),
        "median_seconds": round(statistics.median(seconds), 1),
        "min_seconds": round(min(seconds), 1),
        "max_seconds": round(max(seconds), 1),
    }
    if "own_mib" in runs[0]:
        found["peak_own_mib"] = round(max(run["own_mib"] for run in runs))
        found["peak_held_mib"] = round(max(run["held_mib"] for run in runs))
    return found


def main() -> None:
    """Write the file, convert it, print and keep what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--scratch", type=Path, help="where the temporary folder is made")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        scratch = Path(folder)
        sizes = replace(MOCHI_1.dit, depth=given.depth)
        write(scratch / "original", planned(("dit",), sizes, T5Size()))
        source = scratch / "original" / "dit.safetensors"
        report = {
            "what": "mochi weights convert, in a process of its own",
            "source_gb": round(source.stat().st_size / 1e9, 2),
            "conversions": measure(source, scratch, given.rounds),
            "nothing but starting": _summary([watched(mochi(*NOTHING))]),
            "command": shlex.join(["python", *sys.argv]),
            "machine": describe(),
        }
    text = json.dumps(report, indent=2)
    sys.stdout.write(text + "\n")
    if given.output is not None:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
