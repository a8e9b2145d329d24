"""Lean and compiled elementwise pieces against the plain ones."""

from __future__ import annotations

import pytest
import torch
from tests.model.golden import relative
from torch import Tensor

from mochi.core.errors import RequestError
from mochi.core.speed import KERNEL_NAMES
from mochi.model import fast, lean
from mochi.model.fast import DeviceKernels, make_kernels
from mochi.model.kernels import Heads, Kernels, PlainKernels
from mochi.model.lean import LeanKernels
from mochi.model.rope import Rotary, RotaryTables, positions

PLAIN = PlainKernels()
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
LIMITS = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
SIZE = (2, 3, 4)
HEADS, HEAD_DIM = 3, 8


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=["small slices", "one slice"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    if request.param == "small slices":  # 5 tokens of a width of 32
        monkeypatch.setattr(lean, "_SLICE", 5 * 32 // torch.get_num_threads())
    return LeanKernels()


def check_all(kernels: Kernels, dtype: torch.dtype) -> None:
    """Every piece, two rows, an uneven number of tokens."""
    limit = LIMITS[dtype]
    x, y = (draw(2, 23, 32, seed=seed, dtype=dtype) for seed in (0, 1))
    gate, scale, shift = (draw(2, 2, 1, 32, seed=seed)[:, 1] for seed in (2, 3, 4))
    before = x.clone()
    for out in (torch.float32, torch.bfloat16):
        found = kernels.modulated_norm(x, scale, out)
        assert found.dtype == out
        assert relative(found, PLAIN.modulated_norm(x, scale, out)) < LIMITS[out]
        found = kernels.shifted_norm(x, scale, shift, out)
        assert relative(found, PLAIN.shifted_norm(x, scale, shift, out)) < LIMITS[out]
    assert torch.equal(x, before)
    expected = PLAIN.gated_residual(x, y, gate)
    assert relative(kernels.gated_residual(x.clone(), y.clone(), gate), expected) < limit
    for out in (torch.float32, torch.bfloat16):
        pair = kernels.residual_norm(x.clone(), y.clone(), gate, scale, out)
        for found, plain in zip(pair, PLAIN.residual_norm(x, y, gate, scale, out), strict=True):
            assert found.dtype == plain.dtype
            assert relative(found, plain) < max(limit, LIMITS[plain.dtype])
    ab = draw(2, 23, 2 * 40, dtype=dtype)
    assert relative(kernels.silu_mul(ab.clone()), PLAIN.silu_mul(ab)) < limit


def streams(dtype: torch.dtype, by_tables: bool) -> list[Heads]:
    frequencies = draw(3, HEADS, HEAD_DIM // 2) * 0.1
    tables = RotaryTables.make(frequencies, *SIZE) if by_tables else None
    weights = [draw(HEAD_DIM, seed=seed) for seed in (1, 2, 3, 4)]
    visual = draw(3, 24, 3, HEADS, HEAD_DIM, seed=5, dtype=dtype)
    text = draw(2, 5, 3, HEADS, HEAD_DIM, seed=6, dtype=dtype)
    return [
        Heads(visual, *weights[:2], Rotary(frequencies, positions(*SIZE), tables)),
        Heads(text, *weights[2:], rows=slice(1, 3)),
    ]


def check_heads(kernels: Kernels, dtype: torch.dtype, by_tables: bool) -> None:
    parts = streams(dtype, by_tables)
    for given in (parts, parts[:1]):
        expected = PLAIN.join_heads(given, 3)
        for found, plain in zip(kernels.join_heads(given, 3), expected, strict=True):
            assert found.shape == plain.shape
            assert found.dtype == dtype
            assert relative(found[:, :24], plain[:, :24]) < 2 * LIMITS[dtype]
            if len(given) == 2:
                assert relative(found[1:, 24:], plain[1:, 24:]) < LIMITS[dtype]


@DTYPES
def test_lean_is_plain(kernels: Kernels, dtype: torch.dtype) -> None:
    check_all(kernels, dtype)


@DTYPES
@pytest.mark.parametrize("by_tables", [True, False])
def test_lean_heads_are_plain_heads(kernels: Kernels, dtype: torch.dtype, by_tables: bool) -> None:
    check_heads(kernels, dtype, by_tables)


@pytest.mark.long
@pytest.mark.needs_system("g++", install="apt-get install g++")
@DTYPES
def test_compiled_is_plain(dtype: torch.dtype) -> None:
    kernels = make_kernels("compiled")
    check_all(kernels, dtype)
    check_heads(kernels, dtype, by_tables=True)


def test_a_compiler_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler found\nmore lines")

    monkeypatch.setattr(torch, "compile", lambda function, **_: refuse)
    with pytest.raises(
        RequestError, match=r"cannot be compiled here: no C\+\+ compiler found$|auto"
    ):
        make_kernels("compiled").silu_mul(torch.ones(1, 2, 4))


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "has_triton", lambda: False)
    assert [make_kernels(name).name for name in ("auto", "plain", "lean")] == [
        "auto",
        "plain",
        "lean",
    ]
    assert DeviceKernels().on(torch.device("cpu")).name == "lean"
    assert DeviceKernels().on(torch.device("mps")).name == "plain"
    with pytest.raises(RequestError, match="pip install triton"):
        make_kernels("triton")
    with pytest.raises(RequestError, match="auto, plain, lean"):
        make_kernels("quick")
    assert set(KERNEL_NAMES) >= {"auto", "plain", "lean", "compiled", "triton"}
