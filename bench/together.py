"""Is it faster to denoise several of nano's clips as one batch? Alternates, and prints medians.

    python bench/together.py --steps 4 --rounds 3

Times are the processor's own seconds, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

import mochi
from mochi.pipeline.pipeline import Pipeline
from mochi.sampling.noise import draw_noise
from mochi.sampling.schedule import linear_quadratic
from mochi.text.features import TextFeatures

PROMPTS = (
    "a red circle moves left on a black background",
    "a blue square grows on a white background",
    "a yellow triangle moves up on a teal background",
    "a green circle moves right on a grey background",
)


def denoise(pipe: Pipeline, text: TextFeatures, rows: list[int], steps: int) -> float:
    """Seconds for these clips as one batch."""
    request = pipe.request(PROMPTS[0], seed=0, steps=steps)
    shape = request.size.latent.shape(1, pipe.parts.dit().config.latent_channels)
    noise = torch.cat([draw_noise(shape, row) for row in rows])
    sigmas = linear_quadratic(steps, request.threshold, None)
    features, mask = text.features[rows], text.mask[rows]
    began = time.process_time()
    mochi.sample(pipe.parts.dit(), noise, features, mask, None, None, sigmas, request.guidance)
    return time.process_time() - began


def main() -> None:
    """Print seconds a clip, by the size of the batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    pipe = mochi.load("nano", device="cpu")
    clips = [pipe.generate(prompt, seed=0, frames=1, steps=1) for prompt in PROMPTS]
    text = TextFeatures.join([clip.embeddings[0] for clip in clips])
    found: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(given.rounds):
        for size, seconds in found.items():
            groups = [list(range(at, at + size)) for at in range(0, len(PROMPTS), size)]
            whole = sum(denoise(pipe, text, rows, given.steps) for rows in groups)
            seconds.append(whole / len(PROMPTS))
    medians = {size: round(statistics.median(seconds), 4) for size, seconds in found.items()}
    print(json.dumps({"steps": given.steps, "cpu_seconds_per_clip": medians}))


if __name__ == "__main__":
    main()
