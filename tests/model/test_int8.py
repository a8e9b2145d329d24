"""Products in 8-bit integers: exact where the numbers are, and close where they are rounded."""

import pytest
import torch

from mochi.core.config import DiTConfig
from mochi.model.dit import AsymmDiT
from mochi.model.int8 import Int8Linear, compute_in_int8, int8_product, quantise_rows
from mochi.model.layers import Linear


@pytest.mark.parametrize(("m", "k", "n"), [(1, 8, 8), (17, 40, 24), (64, 129, 7)])
def test_products_are_those_of_whole_numbers(m: int, k: int, n: int) -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randint(-127, 128, (m, k), generator=draw).to(torch.int8)
    b = torch.randint(-127, 128, (n, k), generator=draw).to(torch.int8)
    assert torch.equal(int8_product(a, b).double(), a.double() @ b.double().t())


def test_rows_are_rounded_to_half_a_level() -> None:
    x = torch.randn(5, 100, generator=torch.Generator().manual_seed(1))
    x[3] = 0
    rows, scale = quantise_rows(x)
    assert (rows.float() * scale - x).abs().max() <= scale.max() / 2 * 1.001
    assert rows.abs().amax(dim=1).tolist() == [127, 127, 127, 0, 127]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_close_to_its_origin(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(256, 96, bias=bias).to(dtype)
    x = torch.randn(2, 30, 256)
    with torch.no_grad():
        plain, ours = layer(x), Int8Linear(layer)(x)
        wide = None if layer.bias is None else layer.bias.float()
        same = torch.nn.functional.linear(x, Int8Linear(layer).dense(torch.float32), wide)
    assert ours.dtype == dtype
    assert ours.shape == plain.shape
    error = (ours.float() - plain.float()).norm() / plain.float().norm()
    assert error < 0.015
    assert (same.float() - plain.float()).norm() / plain.float().norm() < 0.01


def test_only_the_large_layers_of_inner_blocks_are_replaced() -> None:
    config = DiTConfig(
        depth=4,
        heads=2,
        visual_width=32,
        text_width=16,
        text_features=16,
        text_tokens=8,
        head_dim=16,
    )
    torch.manual_seed(0)
    dit = AsymmDiT(config)
    z, text = torch.randn(1, 12, 1, 4, 4), torch.randn(1, 8, 16)
    mask, sigma = torch.ones(1, 8, dtype=torch.bool), torch.tensor([0.5])
    with torch.no_grad():
        plain = dit(z, sigma, text, mask)
        assert compute_in_int8(dit.blocks) == 8
        ours = dit(z, sigma, text, mask)
    names = {name for name, layer in dit.named_modules() if isinstance(layer, Int8Linear)}
    assert {name.split(".")[1] for name in names} == {"1", "2"}
    assert not any("_y" in name or "mod" in name for name in names)
    assert 0 < (ours - plain).norm() / plain.norm() < 0.05
    assert compute_in_int8(dit.blocks) == 0  # twice changes nothing
