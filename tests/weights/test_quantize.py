"""Our blocks are those of the gguf package, bit for bit; float8 is the nearest there is."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mochi.core.errors import WeightsError
from mochi.weights.quantize import BLOCK_FORMS, FP8_MAX, fp8_scale, to_fp8

FORMS = list(BLOCK_FORMS)


def theirs(weight: Tensor, form: str) -> Tensor:
    kind = gguf.GGMLQuantizationType[form.upper()]
    return torch.from_numpy(gguf.quants.quantize(weight.numpy(), kind))


def ours(weight: Tensor, form: str) -> Tensor:
    return BLOCK_FORMS[form].pack(weight)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spread", [1e-9, 1e-3, 1.0, 1e4])
def test_random_weights_pack_as_gguf_packs_them(form: str, spread: float):
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) * spread
    packed = ours(weight, form)
    assert packed.dtype == torch.uint8
    assert tuple(packed.shape) == BLOCK_FORMS[form].packed_shape((64, 96))
    assert packed.equal(theirs(weight, form))


# Few levels make ties: of magnitudes, of signs, and of roundings at exactly one half.
levels = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 1 / 127, 63.5 / 127, 1e-7])


@settings(deadline=None, max_examples=200)
@given(st.lists(levels, min_size=64, max_size=64), st.sampled_from(FORMS))
def test_ties_and_zeros_fall_the_same_way(values: list[float], form: str):
    weight = torch.tensor(values).view(1, 64)
    assert ours(weight, form).equal(theirs(weight, form))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.floats(-60000, 60000, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30),
        min_size=32,
        max_size=32,
    ),
    st.sampled_from(FORMS),
)
def test_any_weights_pack_as_gguf_packs_them(values: list[float], form: str):
    weight = torch.tensor(values).view(1, 32)
    assert ours(weight, form).equal(theirs(weight, form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_narrow_sources_pack_as_their_float32_values(form: str, stored: torch.dtype):
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1)).to(stored).float()
    assert ours(weight, form).equal(theirs(weight, form))


@pytest.mark.parametrize("form", FORMS)
def test_weights_too_small_for_a_scale_are_zeros(form: str):
    weight = torch.full((1, 32), 1e-40)
    unpacked = gguf.quants.dequantize(
        ours(weight, form).numpy(), gguf.GGMLQuantizationType[form.upper()]
    )
    assert not unpacked.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e8])
def test_what_no_scale_can_hold_is_refused(form: str, bad: float):
    weight = torch.zeros(1, 32)
    weight[0, 7] = bad
    with pytest.raises(WeightsError, match="cannot be kept in blocks"):
        ours(weight, form)


@pytest.mark.parametrize(
    ("shape", "fits"), [((4, 64), True), ((4, 48), False), ((4,), False), ((4, 0), False)]
)
def test_rows_must_be_whole_blocks(shape: tuple[int, ...], fits: bool):
    assert all(form.fits(shape) is fits for form in BLOCK_FORMS.values())


def test_float8_with_a_scale_uses_its_whole_range():
    weight = torch.randn(33, 7, generator=torch.Generator().manual_seed(2)) * 0.02
    scale = fp8_scale(weight.abs().amax())
    stored = to_fp8(weight, scale)
    assert scale.dtype == torch.float32
    assert scale.ndim == 0
    assert stored.float().abs().amax() == FP8_MAX
    again = stored.float() * scale
    assert ((again - weight).abs() <= weight.abs() / 16 + scale * 2**-10).all()


def test_float8_of_zeros_and_of_too_much():
    assert fp8_scale(torch.zeros(())) == 1
    for bad in (float("nan"), float("inf")):
        with pytest.raises(WeightsError, match="NaN or infinity"):
            fp8_scale(torch.tensor(bad))
    assert to_fp8(torch.tensor([500.0, -1e9, 1.0])).float().tolist() == [448, -448, 1]


def test_float8_is_the_nearest():
    grid = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    grid = np.unique(grid[grid.isfinite()].numpy())
    weight = torch.rand(2000, generator=torch.Generator().manual_seed(3)) * 800 - 400
    found = to_fp8(weight).float().numpy()
    nearest = np.abs(grid[None] - weight.numpy()[:, None]).min(1)
    assert np.array_equal(np.abs(found - weight.numpy()), nearest)
