"""The clips a VAE is trained on: endless, repeatable, in range, with the shape in sight."""

from unittest import mock

import numpy as np
import pytest
import torch

from mochi.training.shapes import vae_data
from mochi.training.shapes.checker import judge
from mochi.training.shapes.vae_data import random_clips
from mochi.training.shapes.world import all_combinations


def clips(seed, batch, frames, height, width):
    return random_clips(np.random.default_rng(seed), batch, frames, height, width)


@pytest.mark.parametrize(
    "size", [(25, 64, 64), (13, 48, 48), (7, 32, 48), (1, 16, 16), (37, 80, 96)]
)
def test_shape_and_range(size):
    batch = clips(0, 3, *size)
    assert batch.shape == (3, 3, *size)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    assert -1 <= batch.min() < batch.max() <= 1


def test_a_seed_means_its_clips():
    torch.testing.assert_close(clips(1, 4, 7, 32, 32), clips(1, 4, 7, 32, 32), rtol=0, atol=0)
    assert not torch.equal(clips(1, 4, 7, 32, 32), clips(2, 4, 7, 32, 32))


def test_no_two_clips_are_alike():
    flat = clips(3, 40, 3, 32, 32).flatten(1)
    distances = torch.cdist(flat, flat) + torch.eye(40) * 1e3
    assert distances.min() > 1e-2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_shape_stays_in_sight_in_small_crops(share):
    with mock.patch.object(vae_data, "EXACT_SHARE", share):
        batch = clips(4, 60, 13, 48, 48)
    # Strong edges inside the picture in the frame halfway through the crop.
    frame = batch[:, :, 6]
    edges = frame.diff(dim=-1).abs().amax((1, 2, 3))
    assert (edges > 0.1).float().mean() > 0.95


def test_exact_clips_are_of_the_world():
    with mock.patch.object(vae_data, "EXACT_SHARE", 1.0):
        batch = clips(5, 24, 25, 64, 64)
    frames = ((batch + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()
    combos = set(all_combinations())
    seen = [judge(clip).combo for clip in frames]
    assert set(seen) <= combos
    assert len(set(seen)) > 20


def test_broad_clips_are_broader_than_the_world():
    with mock.patch.object(vae_data, "EXACT_SHARE", 0.0):
        batch = clips(6, 40, 5, 32, 32)
    corners = {tuple(colour.tolist()) for colour in batch[:, :, 0, 0, 0]}
    assert len(corners) > 30  # the world has four backgrounds
