"""Attention kernels: one answer; which one runs, and that it says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.model.golden import relative
from torch import Tensor

from mochi.core.errors import RequestError
from mochi.model import attention
from mochi.model.attention import ChosenAttention, Kernel, attend_in_chunks
from mochi.model.exchange import attend


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def qkv(tokens: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    return [draw(2, tokens, 3, 16, seed=seed, dtype=dtype) for seed in range(3)]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("tokens", [1, 63, 300])
@pytest.mark.parametrize("strided", [False, True])
def test_chunks_give_the_whole(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, limit: float, tokens: int, strided: bool
) -> None:
    monkeypatch.setattr(attention, "_SCORES", 2**14)  # chunks of 64
    q, k, v = qkv(tokens, dtype)
    if strided:  # heads before tokens, as the kernels lay them
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    found = attend_in_chunks(q, k, v)
    assert found.shape == q.shape
    assert found.dtype == dtype
    exact = attend(q.double(), k.double(), v.double())
    assert relative(found, exact) < limit


def test_the_scale_is_not_rounded() -> None:
    # Rounding q times 128 ** -0.5 to bfloat16 first would add a third to the error of the scores.
    q, k = (draw(1, 512, 1, 128, seed=seed, dtype=torch.bfloat16) for seed in range(2))
    v = draw(1, 512, 1, 128, seed=2, dtype=torch.bfloat16)
    exact = attend(q.double(), k.double(), v.double())
    assert relative(attend_in_chunks(q, k, v), exact) < 2.2 * relative(attend(q, k, v), exact)


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that kernels take, as far as the chooser is concerned."""
    seconds = {"sdpa": 2.0, "chunked": 1.0}
    monkeypatch.setattr(attention, "_seconds", lambda name, sample: seconds[name])
    return seconds


def test_the_fastest_is_chosen_once_and_said_once(pace: dict[str, float]) -> None:
    said: list[str] = []
    chosen = ChosenAttention(announce=said.append)
    first = chosen(*qkv(300))
    pace["chunked"] = 100.0  # what was found out is kept
    assert torch.equal(chosen(*qkv(300)), first)
    chosen(*qkv(310))  # of the same class
    assert said == [
        "attention: chunked (300 tokens, bfloat16, cpu; measured: 2.00 times as fast as sdpa)"
    ]
    assert relative(first, attend(*qkv(300))) < 1e-2
    chosen.announce_to(said.append)  # the next run hears of it again
    chosen(*qkv(300))
    assert len(said) == 2


def test_a_small_lead_does_not_count(pace: dict[str, float]) -> None:
    pace["chunked"] = 1.9
    chosen = ChosenAttention()
    chosen(*qkv(300))
    assert set(chosen.chosen.values()) == {"sdpa"}


@pytest.mark.parametrize(("tokens", "dtype"), [(300, torch.float32), (100, torch.bfloat16)])
def test_where_there_is_no_choice_nothing_is_timed(
    monkeypatch: pytest.MonkeyPatch, tokens: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(attention, "_seconds", lambda *_: pytest.fail("timed"))
    inputs = qkv(tokens, dtype)
    assert torch.equal(ChosenAttention()(*inputs), attend(*inputs))


def test_a_real_measurement_ends_with_a_kernel_that_runs() -> None:
    chosen = ChosenAttention()
    inputs = qkv(300)
    assert relative(chosen(*inputs), attend(*inputs)) < 1e-2
    (seconds,) = chosen.seconds.values()
    assert set(seconds) == {"sdpa", "chunked"}


def test_gradients_go_through_the_plain_kernel() -> None:
    q, k, v = (x.requires_grad_() for x in qkv(300, torch.float32))
    with torch.enable_grad():
        ChosenAttention("chunked")(q, k, v).sum().backward()
    assert q.grad is not None


def failing(error: Exception) -> Callable[..., Tensor]:
    def run(*_: Tensor) -> Tensor:
        raise error

    return run


def test_a_kernel_that_does_not_run_is_passed_over_or_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = failing(RuntimeError("No available kernel. Aborting execution.\nmore"))
    kernels = attention.KERNELS | {"chunked": Kernel(broken, ("cpu",))}
    monkeypatch.setattr(attention, "KERNELS", kernels)
    inputs = qkv(300)
    assert torch.equal(ChosenAttention()(*inputs), attend(*inputs))
    with pytest.raises(RequestError, match="does not run here: No available kernel") as caught:
        ChosenAttention("chunked")(*inputs)
    assert caught.value.field == "attention"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), RuntimeError("not enough memory: you tried ...")]
)
def test_too_little_memory_is_no_reason_to_choose_another(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    full = failing(error)
    monkeypatch.setattr(attention, "KERNELS", attention.KERNELS | {"chunked": Kernel(full)})
    for name in ("auto", "chunked"):
        with pytest.raises(type(error)):
            ChosenAttention(name)(*qkv(300))


def test_names() -> None:
    with pytest.raises(RequestError, match="auto, sdpa, chunked"):
        ChosenAttention("fast")
    with pytest.raises(RequestError, match="does not run here"):
        ChosenAttention("flash3")(*qkv(300))  # its package is not here


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cudnn", "flash", "efficient"])
def test_kernels_of_a_gpu(name: str) -> None:
    inputs = [draw(1, 300, 2, 64, seed=seed).to("cuda", torch.bfloat16) for seed in range(3)]
    assert relative(ChosenAttention(name)(*inputs), attend(*inputs)) < 1e-2
