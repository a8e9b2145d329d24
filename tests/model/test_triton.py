"""Triton's kernels against the plain ones: on a GPU where there is one, else in its interpreter."""

from __future__ import annotations

import pytest
import torch
from tests.model.golden import prompt_mask, relative
from torch import Tensor

from mochi.core.config import DiTConfig
from mochi.model.dit import AsymmDiT
from mochi.model.kernels import Heads, PlainKernels
from mochi.model.rope import Rotary, RotaryTables, positions

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not here: pip install triton")

from mochi.model.triton_kernels import TritonKernels  # noqa: E402

PLAIN, TRITON = PlainKernels(), TritonKernels()
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
# The interpreter cuts bfloat16 off where the GPU rounds to nearest: one unit in place of half.
LIMITS = {torch.float32: 1e-6, torch.bfloat16: 8e-3}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


@DTYPES
@pytest.mark.parametrize("width", [32, 96])
def test_norms_and_residuals(dtype: torch.dtype, width: int) -> None:
    x, y = (draw(2, 5, width, seed=seed, dtype=dtype) for seed in (0, 1))
    gate, scale = (draw(2, 2, 1, width, seed=seed)[:, 1] for seed in (2, 3))  # strided rows
    limit = LIMITS[dtype]
    normed = TRITON.modulated_norm(x, scale, torch.bfloat16)
    assert normed.dtype == torch.bfloat16
    assert relative(normed, PLAIN.modulated_norm(x, scale, torch.bfloat16)) < 8e-3
    assert (
        relative(TRITON.modulated_norm(x, scale, dtype), PLAIN.modulated_norm(x, scale, dtype))
        < limit
    )
    expected = PLAIN.gated_residual(x, y, gate)
    assert relative(TRITON.gated_residual(x.clone(), y.clone(), gate), expected) < limit
    found = TRITON.residual_norm(x.clone(), y.clone(), gate, scale, dtype)
    for ours, theirs in zip(found, PLAIN.residual_norm(x, y, gate, scale, dtype), strict=True):
        assert ours.dtype == theirs.dtype
        assert relative(ours, theirs) < limit


@DTYPES
@pytest.mark.parametrize("by_tables", [True, False])
def test_heads_with_and_without_positions(dtype: torch.dtype, by_tables: bool) -> None:
    heads, head_dim, size = 3, 8, (2, 2, 3)
    frequencies = draw(3, heads, head_dim // 2) * 0.1
    tables = RotaryTables.make(frequencies, *size) if by_tables else None
    where = positions(*size, device=frequencies.device)
    weights = [draw(head_dim, seed=seed) for seed in (1, 2, 3, 4)]
    visual = draw(2, 12, 3, heads, head_dim, seed=5, dtype=dtype)
    text = draw(1, 4, 3, heads, head_dim, seed=6, dtype=dtype)
    streams = [
        Heads(visual, *weights[:2], Rotary(frequencies, where, tables)),
        Heads(text, *weights[2:], rows=slice(1, 2)),
    ]
    for found, expected in zip(
        TRITON.join_heads(streams, 2), PLAIN.join_heads(streams, 2), strict=True
    ):
        assert found.dtype == dtype
        assert relative(found[:, :12], expected[:, :12]) < 2 * LIMITS[dtype]
        assert relative(found[1:, 12:], expected[1:, 12:]) < LIMITS[dtype]


@DTYPES
def test_silu_mul(dtype: torch.dtype) -> None:
    ab = draw(2, 3, 2 * 40, dtype=dtype)
    assert relative(TRITON.silu_mul(ab), PLAIN.silu_mul(ab)) < 2 * LIMITS[dtype]


def test_a_whole_network() -> None:
    config = DiTConfig(
        depth=2, heads=2, head_dim=16, visual_width=32, text_width=16, text_features=24
    )
    generator = torch.Generator().manual_seed(0)
    dit = AsymmDiT(config).eval()
    for parameter in dit.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    dit.to(DEVICE)
    text, mask = draw(2, 5, 24), torch.cat([prompt_mask(2, 5), prompt_mask(4, 5)]).to(DEVICE)
    found = []
    for kernels in (PLAIN, TRITON):
        dit.kernels = kernels
        found.append(dit(draw(2, 12, 2, 4, 4), torch.tensor([0.7, 0.2], device=DEVICE), text, mask))
    assert relative(found[1], found[0]) < 1e-5


@pytest.mark.gpu
def test_triton_is_the_default_on_a_gpu() -> None:
    from mochi.model.fast import DeviceKernels

    assert DeviceKernels().on(torch.device("cuda")).name == "triton"
