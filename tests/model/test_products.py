"""Products in 8 bits: exact where the numbers are, and close where they are rounded."""

import os
import subprocess
import sys

import pytest
import torch

from mochi.core.config import DiTConfig
from mochi.core.errors import RequestError
from mochi.model.dit import AsymmDiT
from mochi.model.layers import Linear
from mochi.model.products import (
    FP8,
    INT8,
    Eight,
    EightBitLinear,
    check_products,
    compute_in_eight_bits,
)

BOTH = pytest.mark.parametrize("eight", [INT8, FP8], ids=lambda eight: eight.name)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 8, 8), (17, 40, 24), (64, 129, 7)])
def test_products_are_those_of_whole_numbers(m: int, k: int, n: int) -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randint(-127, 128, (m, k), generator=draw).to(torch.int8)
    b = torch.randint(-127, 128, (n, k), generator=draw).to(torch.int8)
    assert torch.equal(INT8.product(a, b).double(), a.double() @ b.double().t())


def test_products_are_right_on_older_processors() -> None:
    """Without VNNI PyTorch's own are not. The limit is read when a process makes its first."""
    program = """
import torch
from mochi.model.products import INT8
a, b = (torch.full((rows, 40), value, dtype=torch.int8) for rows, value in ((5, 127), (24, -127)))
assert (INT8.product(a, b) == -40 * 127 * 127).all()
a, b = (torch.randint(-127, 128, (rows, 3072)).to(torch.int8) for rows in (33, 24))
assert torch.equal(INT8.product(a, b).double(), a.double() @ b.double().t())
"""
    for most in ("AVX2", "AVX512_CORE", "DEFAULT"):
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": most}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_products_of_float8_are_summed_in_float32() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 320, generator=draw).to(torch.float8_e4m3fn) for n in (17, 48))
    exact = a.double() @ b.double().t()
    assert (FP8.product(a, b).double() - exact).norm() / exact.norm() < 1e-6


def test_rows_are_rounded_to_half_a_level() -> None:
    x = torch.randn(5, 100, generator=torch.Generator().manual_seed(1))
    x[3] = 0
    rows, scale = INT8.rows(x)
    assert (rows.float() * scale - x).abs().max() <= scale.max() / 2 * 1.001
    assert rows.abs().amax(dim=1).tolist() == [127, 127, 127, 0, 127]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float8_rows_fill_its_range_and_keep_three_bits(dtype: torch.dtype) -> None:
    x = torch.randn(5, 100, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[3] = 0
    rows, scale = FP8.rows(x)
    # A bfloat16 product may round up beyond the largest number, which would be NaN.
    assert torch.isfinite(rows.float()).all()
    assert (rows.float().abs().amax(dim=1)[[0, 1, 2, 4]] >= 416).all()
    wide, found = x.float(), rows.float() * scale
    within = wide.abs() / 16 + scale * 2.0**-9 + wide.abs() * 2.0**-7
    assert ((found - wide).abs() <= within).all()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_close_to_its_origin(eight: Eight, dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(256, 96, bias=bias).to(dtype)
    x = torch.randn(2, 30, 256)
    limit = {"int8": 0.015, "fp8": 0.05}[eight.name]
    with torch.no_grad():
        made = EightBitLinear(layer, eight)
        plain, ours = layer(x), made(x)
        wide = None if layer.bias is None else layer.bias.float()
        same = torch.nn.functional.linear(x, made.dense(torch.float32), wide)
    assert ours.dtype == dtype
    assert ours.shape == plain.shape
    error = (ours.float() - plain.float()).norm() / plain.float().norm()
    assert error < limit
    assert (same.float() - plain.float()).norm() / plain.float().norm() < error


@BOTH
def test_only_the_large_layers_of_inner_blocks_are_replaced(eight: Eight) -> None:
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
        assert compute_in_eight_bits(dit.blocks, eight) == 8
        ours = dit(z, sigma, text, mask)
    names = {name for name, layer in dit.named_modules() if isinstance(layer, EightBitLinear)}
    assert {name.split(".")[1] for name in names} == {"1", "2"}
    assert not any("_y" in name or "mod" in name for name in names)
    assert 0 < (ours - plain).norm() / plain.norm() < 0.1
    assert compute_in_eight_bits(dit.blocks, eight) == 0  # twice changes nothing


def test_float8_leaves_sizes_that_its_kernels_do_not_take() -> None:
    assert FP8.fits(96, 256)
    assert not FP8.fits(96, 250)
    assert INT8.fits(96, 250)


def test_what_a_device_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_products("fp8", torch.device("cpu"))
    with pytest.raises(RequestError, match=r"products='int4' is unknown.*exact, int8, fp8"):
        check_products("int4", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(RequestError, match=r"compute capability 8\.9, this one has 8\.0.*int8"):
        check_products("fp8", torch.device("cuda"))
    check_products("int8", torch.device("cuda"))
