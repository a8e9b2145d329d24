"""What a run prepares once, and what it never does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.model.golden import prompt_mask, relative
from torch import Tensor, nn

from mochi.core.config import DiTConfig
from mochi.model.dit import AsymmDiT, TextContext
from mochi.model.exchange import OneDevice
from mochi.model.kernels import PlainKernels
from mochi.model.modulation import StepTables
from mochi.model.residency import Resident
from mochi.model.rope import RotaryTables, positions, rotary_factors
from mochi.sampling.loop import sample

TINY = DiTConfig(depth=3, heads=2, head_dim=16, visual_width=32, text_width=16, text_features=24)
SIGMAS = [1.0, 0.8, 0.5, 0.1]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(config: DiTConfig = TINY) -> AsymmDiT:
    dit = AsymmDiT(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in dit.parameters():
        spread = 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return dit.eval()


@pytest.fixture
def dit() -> AsymmDiT:
    return network()


def prompts(dit: AsymmDiT, *valid: tuple[int, ...], tokens: int = 6) -> list[TextContext]:
    return [
        dit.prepare_text(
            draw(len(rows), tokens, 24, seed=seed),
            torch.cat([prompt_mask(count, tokens) for count in rows]),
        )
        for seed, rows in enumerate(valid)
    ]


def tables(dit: AsymmDiT, contexts: list[TextContext]) -> StepTables:
    made = dit.prepare_steps(SIGMAS, contexts)
    assert made is not None
    return made


MIXES = pytest.mark.parametrize(
    "valid",
    [
        [(4, 4)],
        [(0, 0), (4, 6)],
        [(4, 6), (0, 0)],
        [(3, 5), (1, 4)],
        [(0, 3), (0, 0)],
        [(3, 0), (2, 2)],  # the rows with text are not beside each other
        [(0, 0), (0, 0)],
        [(2, 2), (0, 0), (5, 5)],
    ],
    ids=str,
)


@MIXES
@pytest.mark.parametrize("passes", ["together", "apart"])
def test_prepared_steps_are_single_velocities(
    dit: AsymmDiT, valid: list[tuple[int, ...]], passes: str
) -> None:
    z, contexts = draw(2, 12, 2, 4, 6), prompts(dit, *valid)
    plain = network()
    plain.kernels, plain.passes = PlainKernels(), "apart"
    made = tables(dit, contexts)
    dit.passes = passes
    for sigma in SIGMAS:
        found = dit.velocities(z, sigma, contexts, made)
        for velocity, context in zip(found, contexts, strict=True):
            expected = plain.velocity(z, torch.full((2,), sigma), context)
            assert relative(velocity, expected) < 2e-6


def test_a_single_block_has_tables_too() -> None:
    dit = network(DiTConfig(**(vars(TINY) | {"depth": 1, "visual_ffn": 0, "text_ffn": 0})))
    z, contexts = draw(1, 12, 1, 4, 4), prompts(dit, (3,), (0,))
    made = tables(dit, contexts)
    for velocity, context in zip(dit.velocities(z, 0.5, contexts, made), contexts, strict=True):
        assert relative(velocity, dit.velocity(z, torch.tensor([0.5]), context)) < 1e-6


def test_levels_and_prompts_that_are_not_in_the_tables_are_worked_out(dit: AsymmDiT) -> None:
    z, contexts = draw(1, 12, 1, 4, 4), prompts(dit, (3,), (0,), (5,))
    made = tables(dit, contexts[:2])
    for sigma, given in ((0.33, contexts[:2]), (0.5, contexts[1:]), (0.5, contexts[::-1][1:])):
        expected = dit.velocities(z, sigma, given)
        for found, wanted in zip(dit.velocities(z, sigma, given, made), expected, strict=True):
            assert relative(found, wanted) < 1e-6


def test_without_tables_every_step_works_out_its_own(dit: AsymmDiT) -> None:
    count, expected = Counted(dit), run(dit, 3.0, tokens=4, negative=2)
    dit.tabulates = False
    before = count.of("mod_x")
    assert relative(run(dit, 3.0, tokens=4, negative=2), expected) < 1e-5
    assert count.of("mod_x") - before == len(SIGMAS) * TINY.depth


def test_the_tables_have_the_published_size() -> None:
    # 225 MB for 64 steps and two prompts (PERFORMANCE 2.1), less where one of them is empty.
    config = DiTConfig()
    per_row = (config.depth * 4 + 2) * config.visual_width
    per_text_row = ((config.depth - 1) * 4 + 1) * config.text_width
    assert 2 * 64 * 2 * (per_row + per_text_row) == pytest.approx(225e6, rel=0.02)
    dit = network()
    full, half = (
        tables(dit, prompts(dit, *valid)).nbytes for valid in ([(4,), (4,)], [(4,), (0,)])
    )
    tiny_row = (TINY.depth * 4 + 2) * TINY.visual_width
    tiny_text = ((TINY.depth - 1) * 4 + 1) * TINY.text_width
    assert full == 4 * 4 * 2 * (tiny_row + tiny_text)
    assert half == 4 * 4 * (2 * tiny_row + tiny_text)


class Counted:
    """Counts the calls of each layer of a network, by name."""

    def __init__(self, network: nn.Module):
        self.calls: dict[str, int] = {}
        for name, module in network.named_modules():
            if not any(True for _ in module.children()):
                module.register_forward_hook(self._count(name))

    def _count(self, name: str) -> object:
        def hook(*_: object) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1

        return hook

    def of(self, part: str) -> int:
        return sum(count for name, count in self.calls.items() if part in name)


def run(dit: AsymmDiT, guidance: float, tokens: int, negative: int) -> Tensor:
    text, mask = draw(1, 6, 24, seed=1), prompt_mask(tokens, 6)
    other = draw(1, 6, 24, seed=2), prompt_mask(negative, 6)
    return sample(dit, draw(1, 12, 1, 4, 4), text, mask, *other, [*SIGMAS, 0.0], guidance)


@pytest.mark.parametrize("passes", ["together", "apart"])
def test_nothing_runs_twice_and_nothing_for_nobody(dit: AsymmDiT, passes: str) -> None:
    dit.passes = passes
    steps, depth = len(SIGMAS), TINY.depth
    count = Counted(dit)
    run(dit, 3.0, tokens=4, negative=0)
    walks = 1 if passes == "together" else 2
    assert count.of("mod_x") == depth  # for all steps and both prompts at once
    assert count.of("mod_y") == depth
    assert count.of("final_layer.mod") == 1
    assert count.of("t_embedder.mlp.0") == 1
    assert count.of("t5_yproj") == 2  # a prompt each
    assert count.of("x_embedder") == steps  # both passes begin with the same tokens
    assert count.of("mlp_x.w1") == steps * depth * walks
    # The empty prompt has no text stream.
    assert count.of("attn.qkv_y") == steps * depth
    assert count.of("attn.proj_y") == steps * (depth - 1)
    assert count.of("mlp_y.w1") == steps * (depth - 1)


def test_no_text_at_all_touches_no_layer_of_the_text_stream(dit: AsymmDiT) -> None:
    count = Counted(dit)
    run(dit, 3.0, tokens=0, negative=0)
    assert count.of("_y.") + count.of("mod_y") + count.of("qkv_y") == 0


def test_guidance_of_one_is_one_pass(dit: AsymmDiT) -> None:
    count = Counted(dit)
    run(dit, 1.0, tokens=4, negative=3)
    assert count.of("mlp_x.w1") == len(SIGMAS) * TINY.depth
    assert count.of("t5_yproj") == 1


def test_both_passes_of_a_block_run_while_it_is_ready(dit: AsymmDiT) -> None:
    ready: list[nn.Module] = []

    class OneAtATime(Resident):
        def walk(self, blocks):  # type: ignore[no-untyped-def]
            return self._each(blocks)

        def walk_modulation(self, blocks):  # type: ignore[no-untyped-def]
            return self._each(blocks)

        def _each(self, blocks: list[nn.Module]) -> Iterator[nn.Module]:
            for block in blocks:
                ready.append(block)
                yield block
                ready.remove(block)

    expected = run(dit, 3.0, tokens=4, negative=2)
    for block in dit.blocks:
        for module in block.modules():
            module.register_forward_pre_hook(lambda *_, block=block: check(ready == [block]))
    dit.residency, dit.passes = OneAtATime(), "apart"
    assert relative(run(dit, 3.0, tokens=4, negative=2), expected) < 1e-5
    assert ready == []


def check(holds: bool) -> None:
    assert holds


def test_a_stop_is_noticed_between_blocks(dit: AsymmDiT) -> None:
    seen: list[int] = []

    def stop() -> None:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dit.velocities(draw(1, 12, 1, 4, 4), 0.5, prompts(dit, (3,)), before_block=stop)
    assert len(seen) == 2


def test_gradients_through_a_prepared_run_are_those_of_the_plain_one(dit: AsymmDiT) -> None:
    found = []
    for plain in (False, True):
        noise = draw(1, 12, 1, 4, 4).requires_grad_()
        network = (lambda *given: dit(*given)) if plain else dit  # a callable prepares nothing
        text = draw(1, 6, 24, seed=1), prompt_mask(4, 6)
        with torch.enable_grad():
            end = sample(network, noise, *text, None, None, [1.0, 0.6, 0.2], 2.0, enable_grad=True)
            dit.zero_grad()
            end.square().sum().backward()
        grads = [parameter.grad.clone() for parameter in dit.parameters()]
        found.append((noise.grad, *grads))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))


def test_tokens_that_are_elsewhere_still_know_their_places(dit: AsymmDiT) -> None:
    class Half(OneDevice):
        """Sees the second half of the tokens only."""

        def split_tokens(self, x_BNC: Tensor) -> Tensor:
            return x_BNC[:, x_BNC.shape[1] // 2 :]

        def gather_tokens(self, x_BnC: Tensor) -> Tensor:
            return torch.cat([x_BnC, x_BnC], dim=1)

    dit.exchange = Half()
    contexts = prompts(dit, (3,), (0,))
    made = tables(dit, contexts)
    found = dit.velocities(draw(1, 12, 2, 4, 4), 0.5, contexts, made)
    dit.kernels = PlainKernels()
    expected = dit.velocities(draw(1, 12, 2, 4, 4), 0.5, contexts)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative(ours, theirs) < 1e-6


@pytest.mark.parametrize("size", [(3, 4, 6), (28, 30, 53)])
def test_rotary_tables_are_nearer_the_truth_than_float32_angles(size: tuple[int, ...]) -> None:
    frequencies = draw(3, 2, 16) * 0.3
    where = positions(*size)
    angle = torch.einsum("nd,dhf->nhf", where.double(), frequencies.double())
    exact = torch.complex(angle.cos(), angle.sin())
    made = RotaryTables.make(frequencies, *size)
    last = where.shape[0]
    parts = [made.factors(a, b) for a, b in ((0, 7), (7, last - 5), (last - 5, last))]
    found = torch.cat(parts)
    assert float((found - exact).abs().max()) < 4e-7  # two products in float32
    cos, sin = rotary_factors(frequencies, where)
    plain = float((torch.complex(cos[0], sin[0]) - exact).abs().max())
    assert float((found - exact).abs().max()) < max(plain, 4e-7)
