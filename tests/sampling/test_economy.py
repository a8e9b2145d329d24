"""What is left out: where nothing may be left out the numbers are the same, and the error is small
where little is."""

from typing import Any

import pytest
import torch

from mochi.core.config import DiTConfig
from mochi.core.economy import StepCache
from mochi.core.errors import RequestError
from mochi.model.dit import AsymmDiT
from mochi.sampling.economy import every_nth_linear, guided_between, step_cache
from mochi.sampling.loop import sample
from mochi.sampling.schedule import linear_quadratic

CONFIG = DiTConfig(
    depth=4, heads=2, visual_width=16, text_width=8, text_features=16, text_tokens=8, head_dim=8
)


@pytest.fixture(scope="module")
def dit() -> AsymmDiT:
    torch.manual_seed(0)
    dit = AsymmDiT(CONFIG)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return dit


def _run(dit: Any, guidance: float = 3.0, wrap: Any = None, steps: int = 12) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 12, 2, 4, 4, generator=draw)
    text = torch.randn(1, 8, 16, generator=draw)
    mask = torch.arange(8)[None] < 5
    sigmas = linear_quadratic(steps, 0.025)
    return sample(dit, noise, text, mask, None, None, sigmas, guidance, wrap=wrap)


@pytest.mark.parametrize("kind", ["first-block", "tea"])
def test_a_tiny_threshold_computes_everything(dit: AsymmDiT, kind: Any) -> None:
    dit.passes = "apart"
    plain = _run(dit)
    dit.passes = "auto"
    with step_cache(dit, StepCache(kind, 1e-9)) as count:
        cached = _run(dit)
    assert torch.equal(plain, cached)
    assert (count.computed, count.spared) == (24, 0)
    assert dit.shortcut is None


@pytest.mark.parametrize(
    ("kind", "threshold", "steps"), [("first-block", 0.4, 40), ("tea", 0.05, 12)]
)
def test_thresholds_spare_passes_and_cost_little(
    dit: AsymmDiT, kind: Any, threshold: float, steps: int
) -> None:
    plain, calls = _run(dit, steps=steps), []
    handle = dit.blocks[2].register_forward_hook(lambda *_: calls.append(1))
    with step_cache(dit, StepCache(kind, threshold)) as count:
        cached = _run(dit, steps=steps)
    handle.remove()
    assert count.spared >= 3
    assert count.computed == len(calls) == 2 * steps - count.spared
    error = (plain - cached).norm() / plain.norm()
    assert 0 < error < 0.05


def test_each_pass_decides_for_itself(dit: AsymmDiT) -> None:
    """Told that one pass never changes, a cache still computes the other."""
    with step_cache(dit, StepCache("first-block", 0.05)):
        inner: Any = dit.shortcut
        contexts: set[int] = set()
        spared = inner.after_first

        def after_first(context: Any, x: torch.Tensor) -> Any:
            contexts.add(id(context))
            return spared(context, x)

        inner.after_first = after_first
        _run(dit)
        assert len(contexts) == len(inner._passes) == 2


def test_a_failing_run_leaves_no_cache(dit: AsymmDiT) -> None:
    with pytest.raises(ZeroDivisionError), step_cache(dit, StepCache("tea", 0.1)):
        raise ZeroDivisionError
    assert dit.shortcut is None


def test_every_nth_linear_step(dit: AsymmDiT) -> None:
    plain = _run(dit)
    assert torch.equal(_run(dit, wrap=every_nth_linear(1, 6)), plain)
    seen: list[int] = []

    def spy(velocity: Any) -> Any:
        def inner(z: torch.Tensor, sigma: float, step: int) -> torch.Tensor:
            seen.append(step)
            return velocity(z, sigma, step)

        return every_nth_linear(3, 6)(inner)

    saved = _run(dit, wrap=spy)
    assert seen == [0, 3, 6, 7, 8, 9, 10, 11]
    assert 0 < (saved - plain).norm() / plain.norm() < 0.02


def test_guidance_in_an_interval() -> None:
    sigmas = [1.0, 0.9, 0.5, 0.1, 0.0]
    assert guided_between(sigmas, 4.0, 0.3, 0.95) == (1.0, 4.0, 4.0, 1.0)
    for low, high in [(0.5, 0.5), (-0.1, 0.5), (0.2, 1.1), (float("nan"), 1.0)]:
        with pytest.raises(RequestError, match="guidance_interval"):
            guided_between(sigmas, 4.0, low, high)


@pytest.mark.parametrize("text", ["", "on", "tea:", "tea:0", "tea:nan", "tea:-1", "tea:2", 3, None])
def test_a_wrong_step_cache_is_refused(text: Any) -> None:
    with pytest.raises(RequestError, match="step_cache"):
        StepCache.parse(text)


def test_step_caches_there_and_back() -> None:
    assert StepCache.parse("off") is None
    for text in ("first-block:0.1", "tea:0.06", "tea:0.25"):
        assert str(StepCache.parse(text)) == text
    assert str(StepCache.parse("tea")) == "tea:0.06"
