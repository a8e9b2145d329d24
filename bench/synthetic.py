"""A model folder of the published sizes with random weights, written in bounded memory.

python bench/synthetic.py FOLDER [--parts dit decoder t5] [--depth N] [--tokenizer FOLDER]

It loads as the published model would (names, shapes, bfloat16: 20 GB of transformer, 0.7 GB of
decoder, 9.5 GB of T5-XXL) and its videos are noise: for measurements of time and memory.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mochi.core.config import MOCHI_1, DecoderConfig, DiTConfig, T5Size
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder
from mochi.text.t5 import build_t5
from mochi.weights.write import Piece, PlannedFile, copied_file, text_file, write_files
from mochi.weights.write_safetensors import safetensors_file

PARTS = ("dit", "decoder", "encoder", "t5")
POOL = 1 << 24
"""Random numbers that exist; tensors are cut out of them at places of their own."""


class Numbers:
    """Normal random numbers, of which any amount is there at once."""

    def __init__(self, seed: int = 0):
        self._generator = torch.Generator().manual_seed(seed)
        self._pool = torch.randn(POOL, generator=self._generator).to(torch.bfloat16)

    def chunks(self, count: int, scale: float) -> Iterator[Tensor]:
        """`count` numbers of standard deviation `scale`."""
        while count:
            start = int(torch.randint(POOL // 2, (1,), generator=self._generator))
            chunk = self._pool[start : start + min(count, POOL // 2)] * scale
            yield chunk
            count -= len(chunk)


def pieces(shapes: Mapping[str, tuple[int, ...]], numbers: Numbers) -> list[Piece]:
    """Every tensor of a network: matrices that keep the variance of what they multiply, norms of
    one, biases of almost zero."""
    return [_piece(name, shape, numbers) for name, shape in shapes.items()]


def _piece(name: str, shape: tuple[int, ...], numbers: Numbers) -> Piece:
    count = math.prod(shape)
    if name == "pos_frequencies":  # always float32; small, so angles stay small
        chunk = next(numbers.chunks(count, 0.02)).float()
        return Piece(name, "float32", shape, 4 * count, lambda: [chunk])
    if len(shape) == 1 and name.endswith("weight"):
        return Piece(name, "bfloat16", shape, 2 * count, lambda: [torch.ones(shape).bfloat16()])
    scale = 0.01 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:]))
    return Piece(name, "bfloat16", shape, 2 * count, lambda: numbers.chunks(count, scale))


def empty(make: Callable[[], nn.Module]) -> Any:
    """A network without memory."""
    with torch.device("meta"):
        return make()


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def planned(
    parts: tuple[str, ...],
    dit: DiTConfig,
    t5: T5Size,
    decoder: DecoderConfig = MOCHI_1.decoder,
    tokenizer: Path | None = None,
) -> list[PlannedFile]:
    """The files of a model folder."""
    numbers, files = Numbers(), []
    makers: dict[str, Callable[[], nn.Module]] = {
        "dit": lambda: AsymmDiT(dit),
        "decoder": lambda: Decoder(decoder),
        "encoder": lambda: Encoder(MOCHI_1.encoder),
    }
    for name, make in makers.items():
        if name in parts:
            found = pieces(shapes_of(empty(make)), numbers)
            files.append(safetensors_file(f"{name}.safetensors", found))
    if "t5" in parts:
        encoder = empty(lambda: build_t5(t5))
        shapes = shapes_of(encoder)
        shapes.pop("encoder.embed_tokens.weight", None)  # "shared.weight" once more
        config = json.dumps(encoder.config.to_dict())
        files.append(text_file("text_encoder/config.json", config))
        found = pieces(shapes, numbers)
        files.append(safetensors_file("text_encoder/model.safetensors", found))
    beside = sorted(tokenizer.iterdir()) if tokenizer else []
    return files + [copied_file(f"tokenizer/{path.name}", path) for path in beside]


def write(folder: Path, files: list[PlannedFile]) -> float:
    """Write them; returns the seconds it took."""
    began = time.perf_counter()
    write_files(folder, files, overwrite=True)
    return time.perf_counter() - began


def main() -> None:
    """Write a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["dit", "decoder", "t5"])
    parser.add_argument("--depth", type=int, help="blocks of transformer and T5, to try things out")
    parser.add_argument("--tokenizer", type=Path, help="a T5 tokenizer's folder to put beside them")
    given = parser.parse_args()
    dit, t5 = MOCHI_1.dit, T5Size()
    if given.depth:
        dit, t5 = replace(dit, depth=given.depth), T5Size(**(asdict(t5) | {"depth": given.depth}))
    files = planned(tuple(given.parts), dit, t5, tokenizer=given.tokenizer)
    seconds = write(given.folder, files)
    size = sum(file.nbytes for file in files)
    print(f"{given.folder}: {size / 1e9:.1f} GB in {seconds:.0f} s")


if __name__ == "__main__":
    main()
