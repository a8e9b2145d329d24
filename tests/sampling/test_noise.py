"""Noise: one seed, one noise; nobody else's random state is touched."""

import pytest
import torch

from mochi.core.errors import RequestError
from mochi.sampling.noise import draw_noise, mix

SHAPE = (2, 12, 3, 8, 6)


def test_a_seed_means_one_noise() -> None:
    noise = draw_noise(SHAPE, seed=3)
    assert noise.dtype == torch.float32
    assert noise.shape == SHAPE
    assert torch.equal(noise, draw_noise(SHAPE, seed=3))
    assert not torch.equal(noise, draw_noise(SHAPE, seed=4))
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05


def test_a_row_is_the_noise_of_its_own_seed() -> None:
    rows = draw_noise(SHAPE, seed=3)
    assert torch.equal(rows[:1], draw_noise((1, *SHAPE[1:]), seed=3))
    assert torch.equal(rows[1:], draw_noise((1, *SHAPE[1:]), seed=4))


def test_the_callers_random_state_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    noise = draw_noise(SHAPE, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(draw_noise(SHAPE, seed=3), noise)


@pytest.mark.gpu
def test_every_device_gets_the_same_noise() -> None:
    assert torch.equal(draw_noise(SHAPE, seed=3, device="cuda").cpu(), draw_noise(SHAPE, seed=3))


@pytest.mark.parametrize("seed", [-1, 0.5, 2**63 - 1, 2**64, None, "7", True])
def test_bad_seeds_are_refused(seed: object) -> None:
    with pytest.raises(RequestError, match="seed"):
        draw_noise(SHAPE, seed)


def test_the_largest_seeds_work() -> None:
    assert draw_noise((1, 2, 1, 2, 2), seed=2**63 - 1).shape == (1, 2, 1, 2, 2)


def test_mix_goes_straight_from_clean_to_noise() -> None:
    clean, noise = torch.ones(SHAPE), draw_noise(SHAPE, 0)
    assert torch.equal(mix(clean, noise, 0.0), clean)
    assert torch.equal(mix(clean, noise, 1.0), noise)
    assert torch.allclose(mix(clean, noise, 0.25), 0.75 * clean + 0.25 * noise)
    with pytest.raises(RequestError, match="shape"):
        mix(clean, noise[:1], 0.5)
    for sigma in (-0.1, 1.1, float("nan")):
        with pytest.raises(RequestError, match="sigma"):
            mix(clean, noise, sigma)
