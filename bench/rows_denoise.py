"""Rows of the denoising loop on a CPU: two wide blocks, and a nano clip."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

from pairs import BENCH, Apart, Effort, Row, alternate

SIGMAS = (1.0, 0.9, 0.7, 0.4, 0.0)
FIRST_VERSION = "4c5b219"
SMALL = {"depth": 2, "heads": 3, "visual_width": 384, "text_width": 192, "text_features": 64}
PROMPT = "a red circle moves left on a black background"


def rows() -> Sequence[Row]:
    """The rows."""
    return [
        Row(
            name="denoise-two-cores",
            what="denoising, width 3072, depth 2, 848x480x7, 4 guided steps, bf16, two cores",
            against="diffusers' transformer in bf16, same weights and noise",
            reach="2.5x faster; error against float32 at most 1.2x diffusers' own",
            measure=_two_cores,
        ),
        Row(
            name="nano-warm",
            what="a nano clip, warm",
            against="the first version of this project",
            reach="2x faster",
            measure=_nano,
        ),
    ]


# --------------------------------------------------------------------------------- two wide blocks


def _two_cores(effort: Effort) -> Mapping[str, Any]:
    import torch
    from peers import Inputs, diffusers_dit, diffusers_run, our_dit, our_run, plain_dit, relative

    from mochi.core.config import DiTConfig
    from mochi.core.sizes import VideoSize

    config, size = DiTConfig(depth=2), VideoSize(7, 480, 848)
    if effort.tiny:
        config = DiTConfig(**SMALL)
        size = VideoSize(7, 64, 96)
    inputs = Inputs.draw(config, size, SIGMAS)
    exact = our_dit(config, torch.float32)
    reference = our_run(exact, inputs)()
    del exact
    ours = our_dit(config, torch.bfloat16)
    runs = {
        "ours": our_run(ours, inputs),
        "diffusers": diffusers_run(diffusers_dit(ours), inputs),
        "ours, all fast paths off": our_run(plain_dit(ours), inputs),
    }
    ends: dict[str, Any] = {}
    found = alternate({name: kept(name, run, ends) for name, run in runs.items()}, effort.repeats)
    errors = {name: relative(end, reference) for name, end in ends.items()}
    within = errors["ours"] / errors["diffusers"]
    rates = matmul_rates(1024 if effort.tiny else 3072)
    return found | {
        "error_against_float32": errors,
        "attention": sorted(set(ours.attention.chosen.values())),
        "matmul_gflops": rates,
        "notes": [f"error {within:.2f}x diffusers' own"],
        "reached": found["ratio"]["diffusers"]["median"] >= 2.5 and within <= 1.2,
    }


def kept(name: str, run: Callable[[], Any], ends: dict[str, Any]) -> Callable[[], None]:
    """`run`, leaving its result in `ends`."""

    def work() -> None:
        ends[name] = run()

    return work


def matmul_rates(width: int) -> dict[str, float]:
    """What this machine's matrix products reach now, GF/s: what nobody can go below."""
    import torch

    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, w = (torch.randn(width, width).to(dtype) for _ in range(2))
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            torch.nn.functional.linear(x, w)
            best = min(best, time.perf_counter() - began)
        found[str(dtype).removeprefix("torch.")] = round(2 * width**3 / best / 1e9)
    return found


# ------------------------------------------------------------------------------------------ nano


def _nano(effort: Effort) -> Mapping[str, Any]:
    now = BENCH.parent / "src"
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", FIRST_VERSION, "src"],
            cwd=BENCH.parent,
            check=True,
            capture_output=True,
        ).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        settings = {"threads": _threads()}
        sides = {
            "ours": Apart("rows_denoise:nano_clip", settings, path=[now]),
            "first version": Apart("rows_denoise:nano_clip", settings, path=[f"{folder}/src"]),
        }
        found = alternate(sides, 1 if effort.tiny else effort.repeats)
    return found | {"reached": found["ratio"]["first version"]["median"] >= 2}


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def nano_clip(threads: int) -> Callable[[], dict[str, float]]:
    """A warm clip in some version of the package; returns the seconds of its phases."""
    import torch

    import mochi

    torch.set_num_threads(threads)
    pipe = mochi.load("nano", device="cpu")
    pipe.generate(PROMPT, seed=0)

    def work() -> dict[str, float]:
        clip = pipe.generate(PROMPT, seed=1)
        return {phase: round(seconds, 4) for phase, seconds in clip.seconds.items()}

    return work
