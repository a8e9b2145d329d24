"""Rows of one NVIDIA GPU at full size: a guided step against diffusers, and the memory modes.

Everything runs with `--tiny` on a CPU too, at small sizes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pairs import Effort, Here, Row, alternate, peak_bytes, reset_peak
from rows_denoise import SMALL

H100_SECONDS = {31: 0.52, 85: 1.91, 163: 5.25}
"""Exact target of a guided step at 848x480 (PERFORMANCE 1)."""

LIMITS_GB = {"balanced": 24, "low": 12}
GB = 1e9


def rows() -> Sequence[Row]:
    """The rows."""
    steps = [
        Row(
            name=f"gpu-step-{frames}",
            what=f"one guided step at full size, 848x480x{frames} frames, random weights, bf16",
            against="diffusers, eager and compiled, same weights and noise; our plain path",
            reach=f"1.5x faster than diffusers; at most {1.15 * seconds:.2f} s on an H100",
            measure=_step(frames, seconds),
            device="cuda",
        )
        for frames, seconds in H100_SECONDS.items()
    ]
    modes = [
        Row(
            name=f"gpu-memory-{mode}",
            what=f"a video at full size, 848x480x163 frames, random weights, --memory {mode}",
            against="the card's memory",
            reach=f"under {limit} GB on the device, weights and decoding included",
            measure=_mode(mode, limit),
            device="cuda",
        )
        for mode, limit in LIMITS_GB.items()
    ]
    return [*steps, *modes]


def _step(frames: int, seconds: float) -> Callable[[Effort], Mapping[str, Any]]:
    def measure(effort: Effort) -> Mapping[str, Any]:
        import torch
        from peers import (
            Inputs,
            diffusers_dit,
            diffusers_run,
            our_dit,
            our_run,
            plain_dit,
            relative,
        )

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
            "ours, all fast paths off": our_run(plain_dit(ours), inputs),
            "diffusers": diffusers_run(diffusers_dit(ours), inputs),
            "diffusers, compiled": diffusers_run(_compiled(diffusers_dit(ours)), inputs),
        }
        if effort.tiny:
            del runs["diffusers, compiled"]  # a minute of compiling says nothing here
        sides = {name: Here(run, effort.device) for name, run in runs.items()}
        found = alternate(sides, effort.repeats)
        took = found["sides"]["ours"]["median_seconds"]
        ratios = [ratio["median"] for name, ratio in found["ratio"].items() if "diffusers" in name]
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


def _mode(mode: str, limit: int) -> Callable[[Effort], Mapping[str, Any]]:
    def measure(effort: Effort) -> Mapping[str, Any]:
        import torch

        import mochi
        from mochi.text.features import TextFeatures

        with _model(effort.tiny) as folder:
            pipe = mochi.load(folder, device=effort.device, memory=mode)
            width = pipe.parts.blueprint("dit").config.text_features
            generator = torch.Generator().manual_seed(0)
            features = torch.randn(1, 256, width, generator=generator)
            mask = torch.arange(256).unsqueeze(0) < 60
            size = {"frames": 7, "height": 32, "width": 48} if effort.tiny else {}
            reset_peak(effort.device)
            clip = pipe.generate(
                "random",
                seed=0,
                steps=2,
                embeddings=TextFeatures(features, mask, (60,), ("",)),
                **size,
            )
            peak = peak_bytes(effort.device)
        return {
            "peak_gb": round(peak / GB, 2),
            "seconds": {phase: round(seconds, 2) for phase, seconds in clip.seconds.items()},
            "request": clip.request.to_dict(),
            "notes": [f"{peak / GB:.1f} GB"],
            "reached": peak < limit * GB,
        }

    return measure


@contextmanager
def _model(tiny: bool) -> Iterator[Path]:
    """A folder with a transformer and a decoder of random weights, which goes away again."""
    from synthetic import planned, write

    from mochi.core.config import MOCHI_1, DecoderConfig, DiTConfig, T5Size

    dit, decoder = MOCHI_1.dit, MOCHI_1.decoder
    if tiny:
        dit = DiTConfig(**SMALL)
        decoder = DecoderConfig(channels=(64, 64, 32, 32), blocks=(1, 1, 1, 1, 1))
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), planned(("dit", "decoder"), dit, T5Size(), decoder))
        yield Path(name)
