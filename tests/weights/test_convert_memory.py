"""What a conversion needs of memory does not grow with the model."""

import subprocess
import sys
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mochi.core.config import DiTConfig
from mochi.weights.networks import expected_shapes
from mochi.weights.write import Piece, write_files
from mochi.weights.write_safetensors import safetensors_file

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]
CHUNK = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).bfloat16() * 0.02
MIB = 2**20


def write_transformer(folder: Path, depth: int) -> Path:
    """Of the published widths, in bfloat16; written without ever holding it."""

    def piece(name: str, shape: tuple[int, ...]) -> Piece:
        def chunks() -> Iterator[Tensor]:
            left = prod(shape)
            while left:
                yield CHUNK[:left]
                left -= min(left, len(CHUNK))

        return Piece(name, "bfloat16", shape, 2 * prod(shape), chunks)

    shapes = expected_shapes("dit", DiTConfig(depth=depth))
    write_files(folder, [safetensors_file("dit.safetensors", [piece(*s) for s in shapes.items()])])
    return folder / "dit.safetensors"


def peaks(*words: str) -> tuple[float, float]:
    """MiB that `mochi WORDS` owns and holds at most, as seen from outside."""
    process = subprocess.Popen([sys.executable, "-m", "mochi", *words], stdout=subprocess.DEVNULL)
    own = held = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        for name, value in (line.split(":", 1) for line in status.splitlines()):
            if name == "RssAnon":
                own = max(own, int(value.split()[0]))
            if name == "VmHWM":
                held = max(held, int(value.split()[0]))
        time.sleep(0.002)
    assert process.returncode == 0
    return own / 1024, held / 1024


@pytest.mark.parametrize(
    "words",
    [
        ["--to", "diffusers"],
        ["--to", "gguf", "--quantize", "q4_0"],
        ["--to", "comfy", "--quantize", "fp8"],
        ["--to", "original", "--dtype", "float32"],
    ],
    ids=lambda words: "-".join(words[1::2]),
)
def test_memory_is_that_of_a_tensor_not_of_the_model(tmp_path: Path, words: list[str]):
    found, sizes = [], []
    for depth in (1, 4):
        source = write_transformer(tmp_path / f"{depth}", depth)
        sizes.append(source.stat().st_size / MIB)
        found.append(peaks("weights", "convert", str(source), str(tmp_path / "new"), *words, "-q"))
        source.unlink()
        for path in sorted((tmp_path / "new").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    (own_small, held_small), (own_large, held_large) = found
    assert sizes[1] > 1500
    assert own_large < 700
    assert held_large < 1000
    # A look every few milliseconds may miss a whole tensor of the small one; a conversion that
    # holds the model, or half of it, grows by more than this.
    growth = sizes[1] - sizes[0]
    assert own_large - own_small < growth / 4
    assert held_large - held_small < growth / 4


def test_inspecting_and_converting_back_are_bounded_too(tmp_path: Path):
    source = write_transformer(tmp_path / "original", 4)
    folder = str(tmp_path / "diffusers")
    peaks("weights", "convert", str(source), folder, "--to", "diffusers", "-q")
    for words in (
        ["inspect", str(source), "-q"],
        ["convert", folder + "/transformer", str(tmp_path / "back"), "--to", "original", "-q"],
    ):
        own, held = peaks("weights", *words)
        assert own < 700
        assert held < 1000
