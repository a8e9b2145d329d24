"""Rows of loading: a transformer of two billion parameters until it is ready, and how small a
quantised one stays.

The files (published widths, 10 blocks, random weights) are written to a temporary folder and
deleted: 4.3 GB as bfloat16 in the original layout, as much once more for diffusers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pairs import Apart, Effort, Row, alternate, peak_bytes, reset_peak

DEPTH = 10


def rows() -> Sequence[Row]:
    """The rows."""
    return [
        Row(
            name="load-2b",
            what="load a transformer of 2.1 billion parameters, bfloat16, checked for NaN",
            against="diffusers' from_pretrained, on its own layout",
            reach="2x faster, at most 1.1x the file in memory",
            measure=_load,
        ),
        Row(
            name="load-2b-quantised",
            what="load it as Q4_0 and make one step",
            against="the same file decoded when it is loaded",
            reach="the file's size in memory, and one layer; the same numbers",
            measure=_quantised,
        ),
    ]


def _load(effort: Effort) -> Mapping[str, Any]:
    with _files(effort) as folder:
        original, diffusers = folder / "original" / "dit.safetensors", folder / "diffusers"
        convert(original, diffusers, "--to", "diffusers")
        theirs, file = str(diffusers / "transformer"), str(original)
        sides = {
            "ours, mapped": Apart("rows_load:ours", {"path": file, "check": False}),
            "diffusers, mapped": Apart("rows_load:theirs", {"path": theirs, "touch": False}),
            "ours, all read and checked": Apart("rows_load:ours", {"path": file, "check": True}),
            "diffusers, all read": Apart("rows_load:theirs", {"path": theirs, "touch": True}),
            "ours from diffusers' layout, all read and checked": Apart(
                "rows_load:ours", {"path": theirs, "check": True}
            ),
        }
        found = alternate(sides, effort.repeats)
        size = original.stat().st_size
    sides_found = found["sides"]
    seconds = {name: side["median_seconds"] for name, side in sides_found.items()}
    memory = {name: side["value"]["grown_bytes"] / size for name, side in sides_found.items()}
    read = seconds["diffusers, all read"] / seconds["ours, all read and checked"]
    notes = [
        f"all weights read: {read:.2f}x vs diffusers, with the check for NaN on our side alone",
        "memory in sizes of the file: " + ", ".join(f"{n} {m:.2f}" for n, m in memory.items()),
    ]
    faster = found["ratio"]["diffusers, mapped"]["median"]
    reached = faster >= 2 and memory["ours, all read and checked"] <= 1.1
    return found | {"file_bytes": size, "reached": reached, "notes": notes}


def _quantised(effort: Effort) -> Mapping[str, Any]:
    with _files(effort) as folder:
        source = folder / "original" / "dit.safetensors"
        convert(source, folder / "gguf", "--to", "gguf", "--quantize", "q4_0")
        (path,) = (folder / "gguf").glob("*.gguf")
        sides = {
            name: Apart("rows_load:step", {"path": str(path), "dequantize": dequantize})
            for name, dequantize in (("small", False), ("decoded when loaded", True))
        }
        found = alternate(sides, effort.repeats)
        size, dense = path.stat().st_size, source.stat().st_size
    values = {name: side["value"] for name, side in found["sides"].items()}
    notes = [
        f"{name}: {value['weights_bytes'] / dense:.2f} of the bfloat16 file in weights, "
        f"{value['grown_bytes'] / dense:.2f} at the peak of a step, own memory "
        f"{value['own_bytes'] / dense:.2f}"
        for name, value in values.items()
    ]
    reached = values["small"]["weights_bytes"] <= 1.05 * size and (
        values["small"]["digest"] == values["decoded when loaded"]["digest"]
    )
    return found | {"file_bytes": size, "bf16_bytes": dense, "reached": reached, "notes": notes}


@contextmanager
def _files(effort: Effort) -> Iterator[Path]:
    from synthetic import planned, write

    from mochi.core.config import MOCHI_1, T5Size

    dit = replace(MOCHI_1.dit, depth=1 if effort.tiny else DEPTH)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "original"), planned(("dit",), dit, T5Size()))
        yield Path(folder)


def convert(source: Path, to: Path, *options: str) -> None:
    """Have the file written in another layout, by a process that ends with it."""
    command = [sys.executable, "-m", "mochi", "weights", "convert", str(source), str(to)]
    subprocess.run([*command, *options, "--quiet"], check=True)


# ----------------------------------------------------------------------- in processes of their own


def ours(path: str, check: bool) -> Callable[[], object]:
    """Load with this package."""
    from mochi.weights.loading import load_dit

    return lambda: _grown(lambda: load_dit(path, check_finite=check))


def theirs(path: str, touch: bool) -> Callable[[], object]:
    """Load with diffusers; `touch` then looks at one byte of every page of the weights."""
    import torch
    from diffusers import MochiTransformer3DModel

    def work() -> object:
        network = MochiTransformer3DModel.from_pretrained(path, torch_dtype=torch.bfloat16)
        if touch:
            for parameter in network.parameters():
                parameter.detach().flatten().view(torch.uint8)[::4096].sum()
        return network

    return lambda: _grown(work)


def step(path: str, dequantize: bool) -> Callable[[], object]:
    """Load, and predict one velocity of a small latent."""
    import hashlib

    import torch

    from mochi.model.stored import weight_bytes
    from mochi.weights.loading import load_dit

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 12, 2, 8, 8, generator=generator)
    text = torch.randn(1, 8, 4096, generator=generator)
    mask = torch.ones(1, 8, dtype=torch.bool)

    def work() -> object:
        dit = load_dit(path, dtype=torch.bfloat16, dequantize=dequantize)
        began = time.perf_counter()
        with torch.no_grad():
            velocity = dit(z, torch.tensor([0.5]), text, mask)
        return {
            "weights_bytes": weight_bytes(dit),
            "step_seconds": round(time.perf_counter() - began, 2),
            "digest": hashlib.sha256(velocity.numpy().tobytes()).hexdigest()[:16],
        }

    return lambda: _grown(work)


def _grown(work: Callable[[], object]) -> dict[str, Any]:
    """How much resident memory grew at most while something was done, and how much of it was the
    process's own (the rest are pages of files, which the system can take back)."""
    before, own = _kib("VmRSS"), _kib("RssAnon")
    reset_peak("cpu")
    done = work()
    found = {
        "grown_bytes": peak_bytes("cpu") - before,
        "own_bytes": max(0, _kib("RssAnon") - own),
    }
    return found | (done if isinstance(done, dict) else {})


def _kib(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 2**10
