"""Previews: a linear mix of latent channels, fitted to videos."""

import numpy as np
import pytest
import torch

from mochi.core.errors import RequestError
from mochi.sampling.preview import LinearPreview


def test_linear_preview_finds_the_colours_of_a_linear_world() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(3, 12, generator=generator)
    bias = torch.tensor([0.1, -0.2, 0.0])
    z = torch.randn(2, 12, 3, 4, 6, generator=generator)
    colours = torch.einsum("kc,bcthw->bkthw", weight, z) + bias.view(1, 3, 1, 1, 1)
    frames = [0] + [1] * 6 + [2] * 6
    pixels = colours[:, :, frames].repeat_interleave(8, -1).repeat_interleave(8, -2)
    fitted = LinearPreview.fit(z, pixels)
    assert torch.allclose(fitted.weight, weight, atol=1e-5)
    assert torch.allclose(fitted.bias, bias, atol=1e-5)
    shown = fitted(z)
    assert shown.dtype == np.uint8
    assert shown.shape == (3, 4, 6, 3)
    expected = ((colours[0].permute(1, 2, 3, 0) + 1) * 127.5).clamp(0, 255)
    assert np.abs(shown - expected.numpy()).max() <= 0.51
    still = LinearPreview.fit(z[:, :, :1], pixels[:, :, :1])
    assert torch.allclose(still.bias, bias, atol=1e-5)
    with pytest.raises(RequestError, match="pixels"):
        LinearPreview.fit(z, pixels[:, :, 1:])
