"""Nano in every layout, and what it makes from each: `mochi weights convert`, then `mochi eval`.

    python bench/layouts.py --output bench/results/layouts.json

Goes on where it was stopped: a layout that has its row is not evaluated again. `--table` prints the
rows for the documents.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe

LAYOUTS: dict[str, list[str]] = {
    "original, float32 (as shipped)": ["--to", "original"],
    "original, bfloat16": ["--to", "original", "--dtype", "bfloat16"],
    "original, float16": ["--to", "original", "--dtype", "float16"],
    "diffusers": ["--to", "diffusers"],
    "ComfyUI, split": ["--to", "comfy"],
    "ComfyUI, all-in-one": ["--to", "comfy", "--all-in-one"],
    "ComfyUI, fp8 with scales, old marking": ["--to", "comfy", "--quantize", "fp8"],
    "ComfyUI, fp8 with scales, new marking": [
        *("--to", "comfy", "--quantize", "fp8", "--marking", "new", "--all-in-one")
    ],
    "plain fp8 cast": ["--to", "original", "--quantize", "fp8"],
    "Q8_0 in .safetensors": ["--to", "original", "--quantize", "q8_0"],
    "Q4_0 in .safetensors": ["--to", "original", "--quantize", "q4_0"],
    ".gguf, Q8_0": ["--to", "gguf", "--quantize", "q8_0"],
    ".gguf, Q4_0": ["--to", "gguf", "--quantize", "q4_0"],
}
PROMPTS = ["--seen", "150", "--unseen", "50", "--everyday", "60"]


def evaluated(words: list[str], prompts: list[str]) -> dict[str, Any]:
    """Convert nano, judge the result, and say how large it is."""
    with tempfile.TemporaryDirectory() as folder:
        model, report = Path(folder, "nano"), Path(folder, "report.json")
        mochi("weights", "convert", "nano", str(model), *words, "--quiet")
        began = time.perf_counter()
        mochi("eval", str(model), *prompts, "--output", str(report), "--quiet")
        seconds = time.perf_counter() - began
        found = json.loads(report.read_text())
        size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    return {
        "convert": shlex.join(words),
        "megabytes": round(size / 1e6, 1),
        "seconds": round(seconds),
        "groups": found["groups"],
        "vae_psnr": found["vae_psnr"],
    }


def mochi(*words: str) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, "-m", "mochi", *words], check=True, stdout=subprocess.DEVNULL)


def table(rows: dict[str, Any]) -> str:
    """The rows as Markdown."""
    groups = ("seen", "unseen", "everyday")
    lines = [f"| layout | size | {' | '.join(groups)} | VAE |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        shares = " | ".join(f"{100 * row['groups'][group]['all four']:.1f} %" for group in groups)
        psnr = f"{row['vae_psnr']['mean_db']:.1f} dB"
        lines.append(f"| {name} | {row['megabytes']:.1f} MB | {shares} | {psnr} |")
    return "\n".join(lines)


def main() -> None:
    """Evaluate what has no row yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--few", action="store_true", help="few prompts, to see that it works")
    given = parser.parse_args()
    known = json.loads(given.output.read_text()) if given.output.exists() else {}
    rows = known.get("layouts", {})
    prompts = ["--seen", "2", "--unseen", "1", "--everyday", "1"] if given.few else PROMPTS
    for name in [] if given.table else given.only:
        if name in rows:
            continue
        rows[name] = evaluated(LAYOUTS[name], prompts)
        ordered = {layout: rows[layout] for layout in LAYOUTS if layout in rows}
        report = {
            "what": f"mochi eval DIR {shlex.join(prompts)}, for nano in each layout",
            "layouts": ordered,
            "command": shlex.join(["python", *sys.argv]),
            "machine": describe(),
        }
        given.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(rows[name]['groups'])}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
