"""Mochi under Cog's own HTTP server: what `cog.yaml` names, thin as a wrapper can be.

Cog reads the form of an input from the signature of `predict`, so the names here are those of the
predictions dialect. None is "what the model's card says".
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional

import cog

import mochi
from mochi.core.events import Event, StepDone
from mochi.core.sizes import nearest_frames
from mochi.serving.progress import bar

SOURCE = "nano"


class Predictor(cog.BasePredictor):
    """One model, warm, one clip at a time."""

    def setup(self, weights: Optional[str] = None) -> None:  # noqa: UP045 - read by Cog's own parser
        """Open the model: `COG_WEIGHTS` names what `mochi.load` takes, else it is nano."""
        self._pipe = mochi.load(str(weights or SOURCE))
        self._folder = Path(tempfile.mkdtemp(prefix="mochi-cog-"))

    def predict(
        self,
        prompt: str = cog.Input(description="What the video shows."),
        negative_prompt: Optional[str] = cog.Input(  # noqa: UP045
            description="What it does not show.", default=None
        ),
        num_frames: Optional[int] = cog.Input(  # noqa: UP045
            description="Frames; made is the nearest 6k+1.", default=None, ge=1, le=170
        ),
        num_inference_steps: Optional[int] = cog.Input(  # noqa: UP045
            description="Steps of denoising.", default=None, ge=1, le=200
        ),
        guidance_scale: Optional[float] = cog.Input(  # noqa: UP045
            description="How much the prompt weighs.", default=None, ge=0, le=10
        ),
        fps: Optional[int] = cog.Input(  # noqa: UP045
            description="Frames a second.", default=None, ge=1, le=60
        ),
        width: Optional[int] = cog.Input(  # noqa: UP045
            description="Pixels, a multiple of 16.", default=None, ge=16, le=848
        ),
        height: Optional[int] = cog.Input(  # noqa: UP045
            description="Pixels, a multiple of 16.", default=None, ge=16, le=848
        ),
        seed: Optional[int] = cog.Input(  # noqa: UP045
            description="The same seed makes the same video; drawn when absent.", default=None, ge=0
        ),
    ) -> cog.Path:
        """Make a video."""
        chosen = secrets.randbelow(2**32) if seed is None else seed
        _log(f"seed {chosen}")
        said = {
            "negative_prompt": negative_prompt,
            "frames": None if num_frames is None else _snapped(num_frames),
            "steps": num_inference_steps,
            "guidance": guidance_scale,
            "fps": fps,
            "width": width,
            "height": height,
        }
        settings: dict[str, Any] = {k: value for k, value in said.items() if value is not None}
        path = self._folder / f"{secrets.token_hex(8)}.mp4"
        self._pipe.generate_to(path, prompt, seed=chosen, on_event=_hear, **settings)
        return cog.Path(path)


def _snapped(frames: int) -> int:
    below, above = nearest_frames(frames)
    made = below if frames - below <= above - frames else above
    if made != frames:
        _log(f"num_frames={frames} is not 6k+1: {made} frames are made")
    return made


def _hear(event: Event) -> None:
    if isinstance(event, StepDone):
        told = {
            "step": event.step,
            "steps": event.steps,
            "seconds_per_step": event.seconds,
            "eta_seconds": event.eta_seconds,
        }
        _log(bar(told))


def _log(line: str) -> None:
    """Cog keeps what is written here as the prediction's log."""
    sys.stderr.write(f"{line}\n")
