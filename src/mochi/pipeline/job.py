"""What a plan is for: the parts of a request that cost time and memory."""

from __future__ import annotations

from dataclasses import dataclass

from mochi.core.sizes import VideoSize
from mochi.memory.estimate import Prompts


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        size: of the video.
        steps: of sampling; 0 where the latents are finished.
        passes: tokens of the prompt of each pass of a step.
        prompts: tokens of the prompts that the text encoder has to read.
        encodes: whether a video goes through the VAE and back instead.
    """

    size: VideoSize
    steps: int = 64
    passes: Prompts = (256, 0)
    prompts: Prompts = (256,)
    encodes: bool = False
