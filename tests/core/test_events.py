"""Stopping a run, and the two latent spaces."""

from __future__ import annotations

import threading

import pytest
import torch

from mochi.core.errors import Cancelled
from mochi.core.events import CancelToken
from mochi.core.latents import MOCHI_STATS, DitLatent, VaeLatent, to_vae_latents


def test_a_token_stops_from_another_thread() -> None:
    token = CancelToken()
    token.check()
    thread = threading.Thread(target=token.cancel)
    thread.start()
    thread.join()
    assert token.cancelled
    with pytest.raises(Cancelled):
        token.check()


def test_normalising_is_undone_and_per_channel() -> None:
    z = torch.randn(2, 12, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    vae = MOCHI_STATS.denormalize(DitLatent(z))
    assert torch.equal(vae.tensor, to_vae_latents(z))
    assert torch.allclose(MOCHI_STATS.normalize(vae).tensor, z, atol=1e-6)
    ones = MOCHI_STATS.normalize(VaeLatent(torch.ones(1, 12, 1, 1, 1))).tensor.flatten()
    assert float(ones[7]) == pytest.approx((1 + 0.09346305707025976) / 1.3720942357788521)
