"""Rows of the denoising loop: two wide blocks on a CPU, a nano clip, and one GPU at full size."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

from pairs import BENCH, Apart, Effort, Here, Row, alternate

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
        *(
            Row(
                name=f"gpu-denoise-{frames}",
                what=f"one guided step at full size, 848x480x{frames} frames, random weights, bf16",
                against="diffusers, eager and compiled, same weights and noise",
                reach=f"1.5x faster; at most {1.15 * seconds:.2f} s on an H100",
                measure=_gpu_step(frames, seconds),
                device="cuda",
            )
            for frames, seconds in ((31, 0.52), (85, 1.91), (163, 5.25))
        ),
    ]


# --------------------------------------------------------------------------------- two wide blocks


def _two_cores(effort: Effort) -> Mapping[str, Any]:
    import torch
    from peers import Inputs, diffusers_dit, diffusers_run, our_dit, our_run, relative

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
    plain = our_dit(config, torch.bfloat16)
    plain.load_state_dict(ours.state_dict(), assign=True)
    _all_off(plain)
    runs = {
        "ours": our_run(ours, inputs),
        "diffusers": diffusers_run(diffusers_dit(ours), inputs),
        "ours, all fast paths off": our_run(plain, inputs),
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


def _all_off(dit: Any) -> None:
    """The plain path."""
    from mochi.model.attention import ChosenAttention
    from mochi.model.kernels import PlainKernels

    dit.attention, dit.kernels, dit.passes = ChosenAttention("sdpa"), PlainKernels(), "apart"


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


# ------------------------------------------------------------------------------------------- a GPU


def _gpu_step(frames: int, seconds: float) -> Callable[[Effort], Mapping[str, Any]]:
    def measure(effort: Effort) -> Mapping[str, Any]:
        import torch
        from peers import Inputs, diffusers_dit, diffusers_run, our_dit, our_run, relative

        from mochi.core.config import DiTConfig
        from mochi.core.sizes import VideoSize

        config, size = DiTConfig(), VideoSize(frames, 480, 848)
        if effort.tiny:
            config = DiTConfig(**SMALL)
            size = VideoSize(frames, 32, 48)
        inputs = Inputs.draw(config, size, (0.6, 0.5)).to(effort.device)
        ours = our_dit(config, torch.bfloat16, effort.device)
        runs = {
            "ours": our_run(ours, inputs),
            "diffusers": diffusers_run(diffusers_dit(ours), inputs),
            "diffusers, compiled": diffusers_run(_compiled(diffusers_dit(ours)), inputs),
        }
        if effort.tiny:
            del runs["diffusers, compiled"]  # a minute of compiling says nothing here
        sides = {name: Here(run, effort.device) for name, run in runs.items()}
        found = alternate(sides, effort.repeats)
        took = found["sides"]["ours"]["median_seconds"]
        ratios = [ratio["median"] for ratio in found["ratio"].values()]
        return found | {
            "difference": relative(runs["ours"](), runs["diffusers"]()),
            "attention": {str(kind): name for kind, name in ours.attention.chosen.items()},
            "attention_seconds": {str(kind): s for kind, s in ours.attention.seconds.items()},
            "kernels": ours.kernels.on(torch.device(effort.device)).name,
            "notes": [f"{took:.2f} s a guided step"],
            "reached": min(ratios) >= 1.5 and took <= 1.15 * seconds,
        }

    return measure


def _compiled(theirs: Any) -> Any:
    """As diffusers' documents have it: the repeated blocks, in one graph."""
    if hasattr(theirs, "compile_repeated_blocks") and getattr(theirs, "_repeated_blocks", None):
        theirs.compile_repeated_blocks(fullgraph=False)
        return theirs
    for block in theirs.transformer_blocks:
        block.compile()
    return theirs
