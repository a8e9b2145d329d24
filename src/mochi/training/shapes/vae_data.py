"""Endless clips to train the VAE on: half from the exact world, half from a broader one.

The broader world has any colours, more outlines, two shapes at once, gradients, and motion that
is diagonal, accelerating or turning, so that the VAE learns edges and movement rather than the
504 combinations. Both halves share the outlines and the one-pixel edge of `outlines`.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mochi.training.shapes.outlines import OUTLINES, Field, coverage, pixel_grid
from mochi.training.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    FRAMES,
    HEIGHT,
    WIDTH,
    Rgb,
    moments_of,
    random_scene,
    render_at,
)

EXACT_SHARE = 0.5
_JITTER = 2.0  # pixels; half of the exact clips are moved by up to this much
_RADII = (3.0, 20.0)
_FASTEST = 32.0  # pixels over a clip
_NAMES = tuple(OUTLINES)


def random_clips(
    rng: np.random.Generator, batch: int, frames: int, height: int, width: int
) -> torch.Tensor:
    """Fresh clips as float32 (B, 3, T, H, W) in [-1, 1].

    A size below 64x64x25 is a random crop in space and time of a full clip; the shape stays in
    sight. A larger one shows more background, and a longer one the same motion more slowly.
    """
    clips_BCTHW = torch.empty(batch, 3, frames, height, width)
    for clip_CTHW in clips_BCTHW:
        draw = _exact_clip if rng.random() < EXACT_SHARE else _broad_clip
        clip_CTHW.copy_(torch.from_numpy(draw(rng, frames, height, width)))
    return clips_BCTHW.div_(127.5).sub_(1)


def _exact_clip(rng: np.random.Generator, frames: int, height: int, width: int) -> Field:
    """A crop of a rendered scene, (3, T, H, W) in 0..255."""
    slack_x, slack_y = max(WIDTH - width, 0) / 2, max(HEIGHT - height, 0) / 2
    jitter = _JITTER * (rng.random() < 0.5)
    scene = replace(
        random_scene(rng),
        offset_x=rng.uniform(-1, 1) * (slack_x + jitter),
        offset_y=rng.uniform(-1, 1) * (slack_y + jitter),
    )
    return render_at(scene, _window(rng, frames), height, width)


def _window(rng: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """Moments of `frames` consecutive frames of a whole clip, or of a longer clip."""
    if frames >= FRAMES:
        return moments_of(frames)
    first = rng.integers(FRAMES - frames + 1)
    return (first + np.arange(frames)) / (FRAMES - 1)


def _broad_clip(rng: np.random.Generator, frames: int, height: int, width: int) -> Field:
    """One or two shapes of any kind over any background, (3, T, H, W) in 0..255."""
    clip = np.empty((3, frames, height, width), dtype=np.float32)
    clip[:] = _background(rng, height, width)
    moments = _window(rng, frames)
    for _ in range(2 if rng.random() < 0.35 else 1):
        inside = _moving_shape(rng, moments, height, width)
        clip += inside * (_colour(rng, COLOURS) - clip)
    return clip


def _colour(rng: np.random.Generator, named: Mapping[str, Rgb]) -> Field:
    """A colour (3, 1, 1, 1) in 0..255: one of the named ones now and then, otherwise any."""
    colour = rng.uniform(0, 255, 3).astype(np.float32)
    if rng.random() < 0.2:
        colour[:] = tuple(named.values())[rng.integers(len(named))]
    return colour[:, None, None, None]


def _background(rng: np.random.Generator, height: int, width: int) -> Field:
    """A plain colour, or a linear gradient between two; broadcasts to (3, T, H, W)."""
    near = _colour(rng, BACKGROUNDS)
    if rng.random() < 0.6:
        return near
    far = _colour(rng, BACKGROUNDS)
    x, y = pixel_grid(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    share: Field = np.clip(slope / np.sqrt(2) + 0.5, 0, 1).astype(np.float32)
    return near + share * (far - near)


def _moving_shape(
    rng: np.random.Generator, moments: NDArray[np.float64], height: int, width: int
) -> Field:
    """Coverage (T, H, W) of a random outline that moves, grows and turns at random."""
    progress = moments ** rng.uniform(0.6, 1.8) if rng.random() < 0.4 else moments
    speed = rng.uniform(-_FASTEST, _FASTEST, 2) * (rng.random() < 0.75)
    place = rng.uniform(0.2, 0.8, 2) * (width, height)
    middle = progress[len(progress) // 2]  # the shape is at `place` halfway through the crop
    centre_TX = place + (progress - middle)[:, None] * speed
    x, y = pixel_grid(height, width)
    dx = x - centre_TX[:, 0, None, None].astype(np.float32)
    dy = y - centre_TX[:, 1, None, None].astype(np.float32)
    name = _NAMES[rng.integers(len(_NAMES))]
    if rng.random() < 0.6:
        dx, dy = _turn(dx, dy, rng, progress)
    radius = _radii(rng, progress)[:, None, None]
    return coverage(OUTLINES[name](dx, dy, radius))


def _radii(rng: np.random.Generator, progress: NDArray[np.float64]) -> Field:
    """Radius per frame (T,), constant for half of the shapes."""
    first = rng.uniform(*_RADII)
    last = rng.uniform(*_RADII) if rng.random() < 0.5 else first
    return (first + (last - first) * progress).astype(np.float32)


def _turn(
    dx: Field, dy: Field, rng: np.random.Generator, progress: NDArray[np.float64]
) -> tuple[Field, Field]:
    """Rotate offsets by a random angle, which for half of the shapes changes with time."""
    spin = rng.uniform(-1.5, 1.5) * (rng.random() < 0.5)
    angle = rng.uniform(0, 2 * np.pi) + spin * progress
    cos = np.cos(angle).astype(np.float32)[:, None, None]
    sin = np.sin(angle).astype(np.float32)[:, None, None]
    return cos * dx + sin * dy, cos * dy - sin * dx
