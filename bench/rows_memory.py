"""Rows of memory: the full-size model in a few GB, and plans against what is measured.

The model folder is a synthetic one, written by `bench/synthetic.py`; its place is named in the
environment variable MOCHI_SYNTHETIC, else it is written for the measurement and removed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pairs import BENCH, Effort, Row

sys.path.insert(0, str(BENCH.parent))  # the process watcher belongs to the tests

GB = 1e9
SIZES = ((7, 256, 256), (25, 256, 256), (37, 320, 192))


def rows() -> Sequence[Row]:
    """The rows."""
    return [
        Row(
            name="memory-minimal",
            what="all of the published model from a bf16 file: T5-XXL in float32, guided steps, "
            "decoding; 256x256x7, --memory minimal, two cores",
            against="a machine of 24 GiB",
            reach="under 4 GB resident; a guided step of the 10 B transformer, and T5-XXL, under "
            "90 s each from a warm page cache",
            measure=_minimal,
        ),
        Row(
            name="memory-plan",
            what="peak memory of a process in every mode, seen from outside",
            against="its own plan",
            reach="within 15 %",
            measure=_plans,
        ),
    ]


def _minimal(effort: Effort) -> Mapping[str, Any]:
    from tests.pipeline.watched import watch

    from mochi.core.config import MOCHI_1, T5Size

    full = MOCHI_1.dit, T5Size(), MOCHI_1.decoder
    with _model(*(_small() if effort.tiny else full)) as folder:
        cached = _cached_share(folder)
        seen = watch(
            folder,
            "minimal",
            prompt="a hand with delicate fingers picks up a bright yellow lemon from a bowl",
            seed=0,
            frames=7,
            height=256,
            width=256,
            steps=2,
        )
    phases = {
        phase: {
            "seconds": round(seen.seconds[phase], 1),
            "own_gb": round(seen.own[phase] / GB, 2),
            "mapped_gb": round(seen.mapped[phase] / GB, 2),
            "resident_gb": round(seen.resident[phase] / GB, 2),
        }
        for phase in ("text", "load", "denoise", "decode")
    }
    resident = max(seen.resident.values())
    prepared = seen.seconds["denoise"] - sum(seen.steps)
    slowest = max(seen.seconds["text"], max(seen.steps) + prepared)
    return {
        "peak_resident_gb": round(resident / GB, 2),
        "plan_own_gb": round(seen.plan["host_bytes"] / GB, 2),
        "step_seconds": [round(seconds, 1) for seconds in seen.steps],
        "before_steps_seconds": round(prepared, 1),
        "cached_share_before": round(cached, 2),
        "phases": phases,
        "reached": resident < 4 * GB and slowest < 90,
        "notes": [
            f"{resident / GB:.1f} GB resident; T5 {seen.seconds['text']:.0f} s, a guided step "
            f"{max(seen.steps):.0f} s after {prepared:.0f} s for the modulation of all steps"
        ],
    }


def _plans(effort: Effort) -> Mapping[str, Any]:
    from tests.pipeline.watched import watch

    from mochi.memory.modes import MODES

    found, worst = [], 0.0
    with _model(*_small()) as folder:
        for frames, height, width in SIZES[: 1 if effort.tiny else None]:
            for mode in MODES:
                size = {"frames": frames, "height": height, "width": width}
                seen = watch(folder, mode, prompt="a red circle", seed=0, steps=2, **size)
                planned, measured = seen.plan["host_bytes"], max(seen.own.values())
                worst = max(worst, abs(measured / planned - 1))
                found.append(
                    size
                    | {
                        "mode": mode,
                        "planned_mib": planned >> 20,
                        "measured_mib": measured >> 20,
                        "ratio": round(measured / planned, 3),
                        "planned_mapped_mib": seen.plan["mapped_bytes"] >> 20,
                        "measured_mapped_mib": max(seen.mapped.values()) >> 20,
                    }
                )
    return {
        "runs": found,
        "reached": worst <= 0.15,
        "notes": [f"{len(found)} runs, the furthest {100 * worst:.0f} % from its plan"],
    }


@contextmanager
def _model(dit: Any, t5: Any, decoder: Any) -> Iterator[Path]:
    """A model folder that is there, or that is made now and goes away."""
    given = os.environ.get("MOCHI_SYNTHETIC")
    if given:
        yield Path(given)
        return
    from synthetic import planned, write

    from mochi.text.wordlevel import build_word_tokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, planned(("dit", "decoder", "t5"), dit, t5, decoder))
        build_word_tokenizer(["a", "red", "circle"], folder / "tokenizer")
        yield folder


def _small() -> tuple[Any, Any, Any]:
    """A model of 350 MB: large beside the program, small beside the machine."""
    from mochi.core.config import DecoderConfig, DiTConfig, T5Size

    widths = {"visual_width": 1024, "text_width": 512, "text_features": 512}
    return (
        DiTConfig(depth=6, heads=8, head_dim=128, **widths),
        T5Size(vocabulary=512, width=512, feed_forward=2048, depth=6, heads=8, head_dim=64),
        DecoderConfig(channels=(256, 192, 128, 64), blocks=(1, 2, 2, 1, 1)),
    )


def _cached_share(folder: Path) -> float:
    """How much of the transformer the system's cache holds."""
    from mochi.memory.pages import cached_bytes

    path = folder / "dit.safetensors"
    return cached_bytes(path) / path.stat().st_size
