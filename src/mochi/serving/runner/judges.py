"""What a runner looks at around a run: the prompt before it, the frames after it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mochi.core.errors import MochiError

if TYPE_CHECKING:
    from mochi.text.classifiers import PictureClassifier, PromptClassifier

LOOKED_AT_FRAMES = 8


class RefusedError(MochiError):
    """A classifier objects, and the server blocks what it objects to."""


class Judges:
    """The classifiers of a server's settings, loaded when they are first needed.

    Args:
        checks: as `runner.protocol.Checks`, by field.
    """

    def __init__(self, checks: Mapping[str, Any] | None):
        self._checks: Mapping[str, Any] = checks or {}

    @property
    def blocks_frames(self) -> bool:
        """Whether nobody may see frames before they were looked at."""
        return bool(self._checks.get("blocks") and self._checks.get("frames"))

    def load(self) -> None:
        """Load all of them; raises WeightsError."""
        for name in ("_prompts", "_frames"):
            getattr(self, name)

    def prompt(self, prompt: str) -> list[dict[str, Any]]:
        """What is to be said about a prompt.

        Raises:
            RefusedError: it is blocked.
        """
        if self._prompts is None:
            return []
        return self._verdict("prompt", *self._prompts.look(prompt))

    def frames(self, video: Path) -> list[dict[str, Any]]:
        """What is to be said about a video, by some of its frames; raises as `prompt`."""
        if self._frames is None:
            return []
        from mochi.video.reader import iter_frames, probe

        count = probe(video).frames
        chosen = {
            round(place * (count - 1) / (LOOKED_AT_FRAMES - 1)) for place in range(LOOKED_AT_FRAMES)
        }
        some = [frame for number, frame in enumerate(iter_frames(video)) if number in chosen]
        return self._verdict("frames", *self._frames.look(some))

    def _verdict(self, point: str, label: str, score: float) -> list[dict[str, Any]]:
        if score < self._checks[point]["threshold"]:
            return []
        if self._checks["blocks"]:
            what = "the prompt asks for" if point == "prompt" else "the video shows"
            raise RefusedError(f"{what} something that this server does not make ({label})")
        return [{"point": point, "label": label, "score": round(score, 4)}]

    @cached_property
    def _prompts(self) -> PromptClassifier | None:
        from mochi.text.classifiers import PromptClassifier

        given = self._checks.get("prompt")
        return given and PromptClassifier(given["source"], given["labels"], given["licence"])

    @cached_property
    def _frames(self) -> PictureClassifier | None:
        from mochi.text.classifiers import PictureClassifier

        given = self._checks.get("frames")
        return given and PictureClassifier(given["source"], given["labels"], given["licence"])
