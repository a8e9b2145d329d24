"""What each lossy shortcut costs nano in quality, and what it gives in time.

    python bench/lossy.py --output bench/results/lossy.json

Quality is measured twice: prompts followed (as `mochi eval nano` judges), and the distance of the
latents from those of 200 Euler steps from the same noise. Time is the processor's, of one thread,
for denoising, each variant in turn with the plain run: other work on the machine does not count.
Goes on where it was stopped; `--table` prints the rows for the documents.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from machine import describe

import mochi
from mochi.core.events import Event, PhaseEnded, PhaseStarted
from mochi.sampling.economy import guided_between
from mochi.sampling.schedule import linear_quadratic
from mochi.training.nano.evaluate import evaluate, make_cases

PLAIN = "plain: 16 Euler steps"
_SIGMAS = linear_quadratic(16, 0.1)
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "first-block cache, 0.05": {"step_cache": "first-block:0.05"},
    "first-block cache, 0.1": {"step_cache": "first-block:0.1"},
    "first-block cache, 0.2": {"step_cache": "first-block:0.2"},
    "TeaCache, 0.06": {"step_cache": "tea:0.06"},
    "TeaCache, 0.09": {"step_cache": "tea:0.09"},
    "every 2nd linear step": {"linear_every": 2},
    "every 4th linear step": {"linear_every": 4},
    "guidance for sigma 0.1 to 0.98": {"guidance": guided_between(_SIGMAS, 2.0, 0.1, 0.98)},
    "8 steps, Euler": {"steps": 8},
    "8 steps, AB2": {"steps": 8, "solver": "ab2"},
    "8 steps, DPM++ 2M": {"steps": 8, "solver": "dpmpp_2m"},
    "int8 products": {"products": "int8"},
    "fp8 products": {"products": "fp8"},
}
REFERENCE = {"steps": 200, "linear_steps": 100, "solver": "euler"}
PROMPTS = (
    "a red circle moves left on a black background",
    "a yellow triangle moves up on a teal background",
    "a blue square grows on a white background",
    "a green circle shrinks on a black background",
)


def main() -> None:
    """Measure what has no row yet."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--output", type=Path, required=True)
    arguments.add_argument("--seen", type=int, default=50)
    arguments.add_argument("--unseen", type=int, default=50)
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--table", action="store_true")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"rows": {}}
    if given.output.is_file():
        report = json.loads(given.output.read_text())
    if given.table:
        print_table(report["rows"])
        return
    plain = mochi.load("nano", device="cpu")
    wanted = [end_point(plain, prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    cases = make_cases(given.seen, given.unseen, 0)
    for name, settings in VARIANTS.items():
        if name in report["rows"]:
            continue
        row = measure(plain, dict(settings), wanted, cases, given.repeats)
        report["rows"][name] = row
        report |= {"machine": describe(), "command": "python " + shlex.join(sys.argv)}
        given.output.write_text(json.dumps(report, indent=1) + "\n")
        print(name, json.dumps(row), flush=True)


def end_point(pipe: mochi.Pipeline, prompt: str, seed: int, **settings: Any) -> torch.Tensor:
    """Latents of a prompt; by 200 Euler steps where nothing else is said."""
    clip = pipe.generate(prompt, seed=seed, **(settings or REFERENCE))
    return clip.latents.latent.tensor


def measure(
    plain: mochi.Pipeline,
    settings: dict[str, Any],
    wanted: list[torch.Tensor],
    cases: list[Any],
    repeats: int,
) -> dict[str, Any]:
    """One row: prompts followed, distance from the reference, and how many times as fast."""
    products = settings.get("products")
    pipe = mochi.load("nano", device="cpu", products=products) if products else plain
    settings = {name: value for name, value in settings.items() if name != "products"}
    errors = [
        float((end_point(pipe, prompt, seed, **(settings or {"steps": 16})) - goal).norm())
        / float(goal.norm())
        for seed, (prompt, goal) in enumerate(zip(PROMPTS, wanted, strict=True))
    ]
    ratios = []
    for turn in range(repeats + 1):
        prompt = PROMPTS[turn % len(PROMPTS)]
        seconds = [
            denoising(one, prompt, turn, extra) for one, extra in ((plain, {}), (pipe, settings))
        ]
        if turn:
            ratios.append(seconds[0] / seconds[1])
    found = evaluate(pipe, cases, vae_clips=0, **settings)
    return {
        "settings": settings | ({"products": products} if products else {}),
        "times_as_fast": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
        "latent_error": statistics.mean(errors),
        "adherence": {name: score.share("all four") for name, score in found.scores.items()},
    }


def denoising(pipe: mochi.Pipeline, prompt: str, seed: int, settings: dict[str, Any]) -> float:
    """Processor seconds that the steps of one clip took."""
    at: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, PhaseStarted | PhaseEnded) and event.phase == "denoise":
            at[type(event).__name__] = time.process_time()

    pipe.generate(prompt, seed=seed, on_event=listen, **settings)
    return at["PhaseEnded"] - at["PhaseStarted"]


def print_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Markdown rows."""
    for name, row in rows.items():
        seen, unseen = row["adherence"]["seen"], row["adherence"]["unseen"]
        print(
            f"| {name} | {row['times_as_fast']:.2f}x | {row['latent_error']:.3f} "
            f"| {seen:.0%} | {unseen:.0%} |"
        )


if __name__ == "__main__":
    main()
