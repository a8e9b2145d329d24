"""A video through the stages of a network, each taking as many frames at a time as suit it.

The frames of one stage are up to ten times as large as those of another. Small ones go many at a
time, so that a layer's weights are fetched once for all of them; large ones few at a time, so that
memory holds few. Each stage has a `FrameStream` of its own, and so its own place in the video.
"""

# Shapes: B batch, C channels, T frames, H W pixels.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from mochi.core.heap import trim
from mochi.model.convolve import on_cpu
from mochi.model.exchange import FrameExchange, FrameStream

Stage = Callable[[Tensor, FrameExchange], Tensor]
"""Frames, and what came before them, to the frames that the next stage takes."""

LEAST_FRAMES = 2
"""A convolution looks back two frames: with fewer new ones it reads more old than new."""

_MIB = 2**20
_LARGE = 8 * _MIB
"""Below, what the heap keeps is not worth that the next video has to ask for it again."""


def piece_bytes(device: torch.device) -> int:
    """How large a stage's activation of one piece may be, by default.

    On a CPU a piece that fits the cache is as fast as a large one; a GPU wants more work at a time.
    """
    return 8 * _MIB if on_cpu(device) else 64 * _MIB


def frames_within(limit: int, frame_bytes: int) -> int:
    """Frames of a stage whose activation stays below `limit` bytes, and at least two."""
    return max(LEAST_FRAMES, limit // frame_bytes)


def through(
    stage: Stage, pieces: Iterable[Tensor], most: int | None, frames: FrameStream
) -> Iterator[Tensor]:
    """What a stage makes of a video that comes in pieces, `(B, C, T, H, W)` each.

    Args:
        stage: the stage.
        pieces: the video, in order.
        most: frames that it takes at a time; None for each piece as it comes.
        frames: what the stage remembers; at the start of the video.
    """
    for piece in pieces:
        for part in piece.split(most or piece.shape[2], dim=2):
            made = stage(part, frames)
            frames.advance()
            if part.nbytes >= _LARGE and on_cpu(part.device):
                trim()  # else holes between what lives long add up to half as much again
            yield made
            del made
        del piece, part  # not held while the next one is made
