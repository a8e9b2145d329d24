"""Nano in every layout, and what it makes from each: `mochi weights convert`, then `mochi eval`.

    python bench/layouts.py --output bench/results/layouts.json

A layout that keeps every bit is not judged once more: its frames are compared with those of the
shipped files. Where weights lie at another alignment in memory, the last bit of a product may round
otherwise, and a few values in 100,000 are one level of 255 off; more is an error.

Goes on where it was stopped: a layout that has its row is left alone. `--table` prints the rows for
the documents.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
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
SHIPPED = next(iter(LAYOUTS))
LOSSLESS = ("diffusers", "ComfyUI, split", "ComfyUI, all-in-one")
PROMPTS = {"seen": 25, "unseen": 25, "everyday": 20}
COMPARED = (
    "a red circle moves left on a black background",
    "a yellow triangle moves up on a teal background",
    "please draw a tiny golden pyramid rising on gray",
    "blue block, getting smaller, teal backdrop",
)


def measured(name: str, prompts: dict[str, int]) -> dict[str, Any]:
    """Convert nano, judge the result, and say how large it is."""
    words = LAYOUTS[name]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "nano")
        command = [sys.executable, "-m", "mochi", "weights", "convert", "nano", str(model), *words]
        subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
        size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
        found = compared(model) if name in LOSSLESS else judged(model, prompts)
    return {"convert": shlex.join(words), "megabytes": round(size / 1e6, 1), **found}


def judged(model: Path, prompts: dict[str, int]) -> dict[str, Any]:
    """As `mochi eval` judges. Weights are decoded when they are loaded: the same numbers as made
    from their stored form (tests/weights hold it), in less time."""
    import mochi
    from mochi.training.nano.evaluate import evaluate, make_cases

    pipe = mochi.load(str(model), dequantize=True)
    found = evaluate(pipe, make_cases(**prompts), vae_clips=10).to_dict()
    return {name: found[name] for name in ("groups", "vae_psnr")}


def compared(model: Path) -> dict[str, Any]:
    """How far frames are from those of the shipped files; by more than a level is an error."""
    import numpy as np

    import mochi

    shipped, other = mochi.load("nano"), mochi.load(str(model))
    changed = []
    for seed, prompt in enumerate(COMPARED):
        first, second = (pipe.generate(prompt, seed=seed).frames for pipe in (shipped, other))
        if np.abs(first.astype(int) - second.astype(int)).max() > 1:
            raise SystemExit(f"{prompt!r} has other frames than those of the shipped files")
        changed.append(float((first != second).mean()))
    return {"clips": len(COMPARED), "values_one_level_off": max(changed)}


def table(rows: dict[str, Any]) -> str:
    """The rows as Markdown."""
    groups = ("seen", "unseen", "everyday")
    lines = [f"| layout | size | {' | '.join(groups)} | VAE |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        if "groups" not in row:
            lines.append(f"| {name} | {row['megabytes']:.1f} MB | as shipped | | | |")
            continue
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
    prompts = {"seen": 2, "unseen": 1, "everyday": 1} if given.few else PROMPTS
    for name in [] if given.table else given.only:
        if name in rows:
            continue
        rows[name] = measured(name, prompts)
        ordered = {layout: rows[layout] for layout in LAYOUTS if layout in rows}
        report = {
            "what": f"nano in each layout, judged on {prompts} prompts",
            "layouts": ordered,
            "command": shlex.join(["python", *sys.argv]),
            "machine": describe(),
        }
        given.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(rows[name])}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
