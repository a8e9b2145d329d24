"""What a step draws at random, from the seed and the step alone.

Nothing is carried from one step to the next, so a training that goes on after a crash draws what an
uninterrupted one would, and a clip draws the same on however many devices a step is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

_ORDER, _SPREAD, _ROW, _DROPOUT = 1, 2, 3, 4


def order(count: int, first: int, number: int, seed: int) -> list[int]:
    """Some of an endless row of shuffled rounds of `count` things: `number` from place `first` on.

    Every thing comes once before any comes again.
    """
    if not number:
        return []
    rounds = range(first // count, (first + number - 1) // count + 1)
    lined_up = [place for one in rounds for place in _shuffled(count, seed, one)]
    offset = first - rounds[0] * count
    return lined_up[offset : offset + number]


def spread(batch: int, seed: int, step: int) -> list[float]:
    """A number in [0, 1) for each row of a batch, one from each of `batch` equal parts: as random
    as independent ones for each row, with less chance in their mean."""
    rng = np.random.default_rng([seed, _SPREAD, step])
    places = rng.permutation(batch)
    return [float(share) for share in (places + rng.random(batch)) / batch]


def row_generator(seed: int, step: int, row: int, device: str = "cpu") -> torch.Generator:
    """The random numbers of one row of a step's batch."""
    return torch.Generator(device).manual_seed(_number([seed, _ROW, step, row]))


@contextmanager
def seeded(seed: int, step: int, piece: int, device: torch.device) -> Iterator[None]:
    """Inside, the program's own generator, which dropout uses, is seeded; then it is put back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_number([seed, _DROPOUT, step, piece]))  # noqa: TID251 -- forked
        yield


def _shuffled(count: int, seed: int, number: int) -> Sequence[int]:
    rng = np.random.default_rng([seed, _ORDER, number])
    return [int(place) for place in rng.permutation(count)]


def _number(entropy: Sequence[int]) -> int:
    (word,) = np.random.SeedSequence(list(entropy)).generate_state(1, np.uint64)
    return int(word >> np.uint64(1))
