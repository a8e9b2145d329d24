"""How long a nano clip takes: from a cold start of the command line, and warm in one process.

    python bench/nano.py --output bench/results/nano.json

Each cold run is a fresh process that imports everything, loads nano, makes a clip and writes an
mp4; the files are in the page cache after the first, uncounted, run.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe

PROMPT = "a red circle moves left on a black background"


def cold(runs: int) -> dict[str, Any]:
    """Seconds from start to finished file, and the largest resident memory, of fresh processes."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(runs + 1):
            output = Path(folder, f"{run}.mp4")
            command = [sys.executable, "-m", "mochi", "generate", PROMPT, "--seed", "0", "--quiet"]
            began = time.perf_counter()
            subprocess.run([*command, "--output", str(output)], check=True)
            if run:
                seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    return spread(seconds) | {"peak_resident_mib": round(peak)}


def help_seconds(runs: int) -> dict[str, Any]:
    """Seconds that `mochi --help` takes."""
    seconds = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mochi", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return spread(seconds[1:])


def warm(runs: int) -> dict[str, Any]:
    """Seconds of `Pipeline.generate` with everything loaded, and of its phases."""
    import mochi

    pipe = mochi.load("nano")
    pipe.generate(PROMPT, seed=0)
    clips, seconds = [], []
    for seed in range(runs):
        began = time.perf_counter()
        clips.append(pipe.generate(PROMPT, seed=seed))
        seconds.append(time.perf_counter() - began)
    phases = {
        name: round(statistics.median(clip.seconds[name] for clip in clips), 4)
        for name in clips[0].seconds
    }
    return spread(seconds) | {"phases": phases, "request": clips[0].request.to_dict()}


def spread(seconds: list[float]) -> dict[str, Any]:
    """Least, median and most of some times."""
    return {
        "runs": len(seconds),
        "min_seconds": round(min(seconds), 3),
        "median_seconds": round(statistics.median(seconds), 3),
        "max_seconds": round(max(seconds), 3),
    }


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    report = {
        "machine": describe(),
        "help": help_seconds(options.runs),
        "cold": cold(options.runs),
        "warm": warm(options.runs),
    }
    text = json.dumps(report, indent=2)
    sys.stdout.write(text + "\n")
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
