"""What AsymmDiT promises beyond the goldens: batches, padding, precision, gradients, hooks."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from tests.model.golden import prompt_mask, relative
from torch import Tensor

from mochi.core.config import DiTConfig
from mochi.core.errors import RequestError
from mochi.model.conditioning import TimestepEmbedder
from mochi.model.dit import AsymmDiT
from mochi.model.exchange import OneDevice, attend
from mochi.model.rope import positions, rotate

TINY = DiTConfig(depth=2, heads=2, head_dim=16, visual_width=32, text_width=16, text_features=24)


@pytest.fixture
def dit() -> AsymmDiT:
    torch.manual_seed(0)
    network = AsymmDiT(TINY)
    for parameter in network.parameters():
        parameter.normal_(std=0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    return network.eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_rows_of_a_batch_are_independent(dit: AsymmDiT) -> None:
    z, text, sigma = draw(4, 12, 2, 4, 6), draw(4, 9, 24, seed=1), torch.tensor([1, 0.7, 0.2, 0.0])
    mask = torch.cat([prompt_mask(n, 9) for n in (0, 9, 4, 1)])
    together = dit(z, sigma, text, mask)
    for row in range(4):
        part = slice(row, row + 1)
        alone = dit(z[part], sigma[part], text[part], mask[part])
        assert relative(together[part], alone) < 1e-5


def test_padding_never_takes_part(dit: AsymmDiT) -> None:
    z, text, sigma = draw(1, 12, 2, 4, 4), draw(1, 8, 24, seed=1), torch.tensor([0.5])
    mask = prompt_mask(3, 8)
    other = torch.where(mask.unsqueeze(-1), text, torch.full_like(text, 1e4))
    assert torch.equal(dit(z, sigma, text, mask), dit(z, sigma, other, mask))


def test_valid_tokens_may_stand_anywhere(dit: AsymmDiT) -> None:
    z, text, sigma = draw(1, 12, 1, 4, 4), draw(1, 6, 24, seed=1), torch.tensor([0.5])
    mask = torch.tensor([[False, True, False, True, True, False]])
    packed = text[:, mask[0]]
    expected = dit(z, sigma, packed, torch.ones(1, 3, dtype=torch.bool))
    assert relative(dit(z, sigma, text, mask), expected) < 1e-6


def test_an_empty_prompt_is_a_constant(dit: AsymmDiT) -> None:
    z, sigma = draw(1, 12, 1, 4, 4), torch.tensor([0.5])
    first = dit(z, sigma, draw(1, 5, 24, seed=1), prompt_mask(0, 5))
    assert torch.equal(first, dit(z, sigma, draw(1, 9, 24, seed=2), prompt_mask(0, 9)))
    assert torch.equal(first, dit(z, sigma, draw(1, 0, 24), prompt_mask(0, 0)))


def test_a_prepared_prompt_gives_the_same(dit: AsymmDiT) -> None:
    z, text, sigma = draw(2, 12, 1, 4, 4), draw(2, 5, 24, seed=1), torch.tensor([0.5, 0.1])
    mask = torch.cat([prompt_mask(2, 5), prompt_mask(5, 5)])
    context = dit.prepare_text(text, mask)
    assert torch.equal(dit.velocity(z, sigma, context), dit(z, sigma, text, mask))


def test_bfloat16_stays_near_float32(dit: AsymmDiT) -> None:
    z, text, sigma = draw(1, 12, 3, 6, 6), draw(1, 5, 24, seed=1), torch.tensor([0.6])
    mask = prompt_mask(4, 5)
    exact = dit(z, sigma, text, mask)
    frequencies = dit.pos_frequencies.clone()
    dit.bfloat16()
    dit.pos_frequencies.data = frequencies
    rounded = dit(z, sigma, text, mask)
    assert rounded.dtype == torch.float32
    assert 1e-4 < relative(rounded, exact) < 3e-2


def test_gradients_reach_every_parameter_and_match_differences(dit: AsymmDiT) -> None:
    dit.double()
    z, text, sigma = draw(1, 12, 1, 4, 4).double(), draw(1, 5, 24, seed=1).double(), torch.ones(1)
    mask, weight = prompt_mask(3, 5), draw(1, 12, 1, 4, 4, seed=3)

    def loss() -> Tensor:
        return (dit(z, sigma * 0.4, text, mask) * weight).sum()

    with torch.enable_grad():
        text.requires_grad_()
        loss().backward()
    missing = [name for name, p in dit.named_parameters() if p.grad is None]
    assert missing == []
    assert text.grad is not None
    assert text.grad[:, 3:].abs().max() == 0
    for name in ("blocks.0.attn.qkv_x.weight", "t5_yproj.weight", "pos_frequencies"):
        parameter = dit.get_parameter(name)
        direction = torch.randn_like(parameter)
        step = 1e-2 / direction.norm()
        parameter.add_(direction * step)
        above = loss()
        parameter.sub_(2 * direction * step)
        below = loss()
        parameter.add_(direction * step)
        assert parameter.grad is not None
        slope = (parameter.grad * direction).sum()
        assert float((above - below) / (2 * step)) == pytest.approx(
            float(slope), rel=2e-2, abs=1e-3
        )


def test_exchange_and_attention_are_swapped_from_outside(dit: AsymmDiT) -> None:
    z, text, sigma = draw(1, 12, 1, 4, 4), draw(1, 5, 24, seed=1), torch.tensor([0.5])
    mask = prompt_mask(3, 5)
    expected = dit(z, sigma, text, mask)
    calls: list[str] = []

    class Traced(OneDevice):
        def split_tokens(self, x_BNC: Tensor) -> Tensor:
            calls.append("split")
            return x_BNC

        def heads_to_tokens(self, out_BNhK: Tensor) -> Iterable[Tensor]:
            calls.append("heads")
            return (out_BNhK,)

    def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)

    dit.exchange, dit.attention = Traced(), explicit
    assert relative(dit(z, sigma, text, mask), expected) < 1e-5
    assert calls.count("heads") == TINY.depth
    assert calls.count("split") == 2  # tokens and their rotary factors
    dit.exchange, dit.attention = OneDevice(), attend


def test_positions_are_bin_centres() -> None:
    where = positions(2, 4, 2)
    assert where.shape == (16, 3)
    scale = math.sqrt(36864 / 8)
    assert torch.allclose(where[:, 1].unique(), scale * torch.tensor([-1.5, -0.5, 0.5, 1.5]))
    assert torch.equal(where[:8, 0], torch.zeros(8))
    assert where[1, 2] > where[0, 2]


def test_rotation_is_complex_multiplication() -> None:
    x, angle = draw(1, 3, 2, 8), draw(1, 3, 2, 4, seed=1)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    expected = torch.view_as_real(pairs * torch.exp(1j * angle)).flatten(-2)
    assert relative(rotate(x, angle.cos(), angle.sin()), expected) < 1e-6


def test_the_sinusoid_of_clean_and_noise() -> None:
    features = TimestepEmbedder(8).sinusoid(torch.tensor([1.0, 0.75]))
    assert torch.equal(features[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert float(features[1, 0]) == pytest.approx(math.cos(250), abs=1e-4)
    assert float(features[1, 129]) == pytest.approx(math.sin(250 * 10000 ** (-1 / 128)), abs=1e-4)


@pytest.mark.parametrize(
    ("latent", "sigma", "text", "mask", "field"),
    [
        ((1, 12, 1, 3, 4), 1, (1, 5, 24), (1, 5), "latent"),
        ((1, 11, 1, 4, 4), 1, (1, 5, 24), (1, 5), "latent"),
        ((1, 12, 4, 4), 1, (1, 5, 24), (1, 5), "latent"),
        ((1, 12, 0, 4, 4), 1, (1, 5, 24), (1, 5), "latent"),
        ((1, 12, 1, 4, 4), 2, (1, 5, 24), (1, 5), "sigma"),
        ((1, 12, 1, 4, 4), 1, (1, 5, 23), (1, 5), "text"),
        ((1, 12, 1, 4, 4), 1, (1, 5, 24), (1, 4), "mask"),
        ((2, 12, 1, 4, 4), 2, (1, 5, 24), (1, 5), "text"),
    ],
)
def test_shapes_that_do_not_fit(
    dit: AsymmDiT,
    latent: tuple[int, ...],
    sigma: int,
    text: tuple[int, ...],
    mask: tuple[int, ...],
    field: str,
) -> None:
    with pytest.raises(RequestError) as caught:
        dit(torch.zeros(latent), torch.zeros(sigma), torch.zeros(text), torch.ones(mask).bool())
    assert caught.value.field == field
