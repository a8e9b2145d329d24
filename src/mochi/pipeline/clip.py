"""What a run leaves: facts about it, and the frames where they are kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mochi.core.request import GenerateRequest
from mochi.pipeline.latents import StoredLatents
from mochi.text.features import TextFeatures

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A finished video, wherever its frames went.

    Attributes:
        request: everything that decides what is seen; the same request makes the same frames.
        record: what the file holds: the request, the model's hash, the version.
        latents: the finished latents.
        embeddings: text features, the prompt in row 0 and the negative prompt in row 1.
        prompt_tokens: tokens of the prompt, `</s>` included, before any was cut off.
        truncated: the end of the prompt that the text encoder did not read; "" if it read all.
        seconds: how long each phase took.
    """

    request: GenerateRequest
    record: Mapping[str, Any]
    latents: StoredLatents
    embeddings: TextFeatures
    prompt_tokens: int
    truncated: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Clip(Rendered):
    """A finished video in memory.

    Attributes:
        frames: uint8 `(T, H, W, 3)`, RGB.
    """

    frames: np.ndarray

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write a .mp4, .webm, .gif, or PNG frames; the record goes inside.

        Returns:
            The path.

        Raises:
            OutputError: it exists, or cannot be written; no partial file stays.
            RequestError: the ending is none of these.
        """
        from mochi.video.writer import (
            open_writer,
        )  # PyAV, which a clip that is not saved never needs

        size = (self.request.height, self.request.width)
        record = dict(self.record)
        with open_writer(path, self.request.fps, size, record, overwrite=overwrite) as writer:
            writer.write(self.frames)
        return Path(path)
