"""The loop: guidance, latents in and out, progress, cancellation, refusals."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mochi.core.errors import Cancelled, RequestError, SamplingError
from mochi.core.events import CancelToken, StepDone
from mochi.sampling.guidance import Velocity
from mochi.sampling.loop import sample
from mochi.sampling.noise import draw_noise, mix
from mochi.sampling.progress import Progress
from mochi.sampling.schedule import linear_quadratic, starting_at
from mochi.sampling.solvers import SOLVERS

SIGMAS = linear_quadratic(6, 0.1, 3)
SHAPE = (1, 12, 2, 4, 6)


class Toy:
    """A network whose velocity says what it was given: text pulls, the latent decays."""

    def __init__(self, hook: Callable[[int], None] | None = None):
        self.calls: list[tuple[float, int]] = []  # sigma, valid tokens of the first row
        self.hook = hook

    def __call__(self, z: Tensor, sigma: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        assert z.dtype == torch.float32
        assert sigma.shape == z.shape[:1]
        assert mask.dtype == torch.bool
        self.calls.append((float(sigma[0]), int(mask[0].sum())))
        if self.hook:
            self.hook(len(self.calls))
        pull = (text * mask.unsqueeze(-1)).sum((1, 2)) + sigma
        return torch.tanh(pull).view(-1, 1, 1, 1, 1) - 0.3 * z


def words(value: float, tokens: int, rows: int = 1) -> tuple[Tensor, Tensor]:
    return torch.full((rows, 7, 3), value), (torch.arange(7) < tokens).expand(rows, 7)


POSITIVE, NEGATIVE = words(0.02, 5), words(-0.05, 3)
EMPTY = words(0.0, 0)


def run(dit: Any = None, noise: Tensor | None = None, **changes: Any) -> Tensor:
    noise = draw_noise(SHAPE, 0) if noise is None else noise
    given: dict[str, Any] = {"sigmas": SIGMAS, "guidance": 3.0, "negative": NEGATIVE} | changes
    sigmas, guidance = given.pop("sigmas"), given.pop("guidance")
    negative = given.pop("negative") or (None, None)
    positive = given.pop("positive", POSITIVE)
    return sample(dit or Toy(), noise, *positive, *negative, sigmas, guidance, **given)


# ---------------------------------------------------------------------------------------- guidance


def test_euler_with_guidance_written_out() -> None:
    toy, z = Toy(), draw_noise(SHAPE, 0)
    scales = [5.0, 5.0, 1.0, 3.0, 0.0, 2.0]
    for sigma, following, scale in zip(SIGMAS[:-1], SIGMAS[1:], scales, strict=True):
        at = torch.tensor([sigma])
        v, v_not = toy(z, at, *POSITIVE), toy(z, at, *NEGATIVE)
        z = z + (sigma - following) * (v_not + scale * (v - v_not))
    for given in (scales, tuple(scales), torch.tensor(scales), np.array(scales)):
        assert torch.allclose(run(guidance=given), z, rtol=0, atol=1e-6)


def test_passes_cost_what_they_must() -> None:
    for guidance, expected in {
        1: [5] * 6,
        0.0: [3] * 6,
        (1.0, 4.0, 1.0, 1.0, 1.0, 0.0): [5, 3, 5, 5, 5, 5, 3],
    }.items():
        toy = Toy()
        run(toy, guidance=guidance)
        assert [tokens for _, tokens in toy.calls] == expected
    toy = Toy()
    run(toy, guidance=2.0)
    assert len(toy.calls) == 12
    assert [sigma for sigma, _ in toy.calls[::2]] == pytest.approx(SIGMAS[:-1])


def test_no_negative_prompt_is_an_empty_one() -> None:
    toy = Toy()
    assert torch.equal(run(toy, negative=None), run(negative=EMPTY))
    assert {tokens for _, tokens in toy.calls} == {0, 5}
    assert not torch.equal(run(negative=None), run(negative=NEGATIVE))


def test_a_network_that_prepares_text_does_so_once_per_prompt() -> None:
    class Prepared(Toy):
        prepared = 0

        def prepare_text(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            self.prepared += 1
            return text, mask

        def velocity(self, z: Tensor, sigma: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
            return Toy.__call__(self, z, sigma, *context)

        def __call__(self, *_: Tensor) -> Tensor:
            raise AssertionError("text would be prepared in each step")

    network = Prepared()
    assert torch.equal(run(network), run())
    assert network.prepared == 2
    alone = Prepared()
    assert torch.equal(run(alone, guidance=1.0), run(guidance=1.0))
    assert alone.prepared == 1


def test_rows_of_a_batch_are_runs_of_their_own() -> None:
    prompts = [words(0.02, 5), words(0.4, 2), words(-0.1, 0)]
    batch = tuple(torch.cat(pair) for pair in zip(*prompts, strict=True))
    noise = draw_noise((3, *SHAPE[1:]), seed=7)
    together = run(noise=noise, positive=batch)  # one negative prompt for all rows
    for row, prompt in enumerate(prompts):
        alone = run(noise=noise[row : row + 1], positive=prompt)
        assert torch.allclose(together[row], alone[0], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------- latents in and out


def test_a_run_in_two_parts_is_the_run() -> None:
    whole = run(guidance=[3.0, 2.0, 1.0, 4.0, 2.0, 2.0])
    for middle in range(1, 6):
        half = run(sigmas=SIGMAS[: middle + 1], guidance=[3.0, 2.0, 1.0, 4.0, 2.0, 2.0][:middle])
        rest = run(
            noise=half, sigmas=SIGMAS[middle:], guidance=[3.0, 2.0, 1.0, 4.0, 2.0, 2.0][middle:]
        )
        assert torch.equal(rest, whole)


@pytest.mark.parametrize("solver", SOLVERS)
def test_from_a_video_that_is_partly_noise(solver: str) -> None:
    """On straight paths to a target, the target is reached from any level."""
    clean, noise = draw_noise(SHAPE, 1), draw_noise(SHAPE, 2)

    def back(z: Tensor, sigma: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        return (clean - z) / sigma.view(-1, 1, 1, 1, 1)

    for start in (1.0, 0.6, 0.01):
        out = run(back, mix(clean, noise, start), sigmas=starting_at(SIGMAS, start), solver=solver)
        assert torch.allclose(out, clean, atol=1e-5)


def test_the_same_seed_gives_the_same_bits() -> None:
    for solver in SOLVERS:
        assert torch.equal(run(solver=solver), run(solver=solver))


def test_latents_are_float32_whatever_the_network_speaks() -> None:
    def half(z: Tensor, sigma: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        assert z.dtype == sigma.dtype == torch.float32
        return torch.ones_like(z).bfloat16()

    noise = torch.zeros(SHAPE, dtype=torch.bfloat16)
    out = run(half, noise, sigmas=linear_quadratic(64), guidance=2.0)
    assert out.dtype == torch.float32
    assert torch.allclose(out, torch.ones(SHAPE), atol=1e-6)  # 64 small steps, none rounded away


def test_inputs_are_left_alone() -> None:
    noise = draw_noise(SHAPE, 0)
    before = [x.clone() for x in (noise, *POSITIVE, *NEGATIVE)]
    run(noise=noise)
    assert all(
        torch.equal(a, b) for a, b in zip(before, (noise, *POSITIVE, *NEGATIVE), strict=True)
    )


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    run(noise=draw_noise(SHAPE, 5))
    assert torch.equal(torch.get_rng_state(), before)


# ----------------------------------------------------------------------------------------- autograd


def test_no_graph_unless_asked_for() -> None:
    noise = draw_noise(SHAPE, 0).requires_grad_()
    assert not run(noise=noise).requires_grad
    out = run(noise=noise, enable_grad=True)
    (gradient,) = torch.autograd.grad(out.square().sum(), noise)
    assert gradient.abs().sum() > 0
    assert torch.is_grad_enabled()


# ----------------------------------------------------------------------------------------- progress


def test_events_are_enough_for_a_progress_bar() -> None:
    events: list[StepDone] = []
    run(Toy(lambda call: time.sleep(0.002)), on_step=events.append)
    assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
    assert {event.steps for event in events} == {6}
    assert [event.sigma for event in events] == SIGMAS[1:]
    assert all(event.seconds >= 0.004 for event in events)
    assert events[-1].elapsed_seconds >= sum(event.seconds for event in events) * 0.99
    assert events[0].eta_seconds > 0
    assert events[-1].eta_seconds == 0
    assert all(event.preview is None for event in events)


def test_expected_time_is_the_mean_step_times_the_steps_to_come() -> None:
    ticks = iter([10.0, 14.0, 16.0, 22.0])
    events: list[StepDone] = []
    progress = Progress(3, events.append, None, clock=lambda: next(ticks))
    z = torch.zeros(1)
    for step in range(3):
        progress.step_done(step, z, z, 0.5, 0.4)
    assert [event.seconds for event in events] == [4.0, 2.0, 6.0]
    assert [event.elapsed_seconds for event in events] == [4.0, 6.0, 12.0]
    assert [event.eta_seconds for event in events] == [8.0, 3.0, 0.0]


def test_a_preview_is_the_clean_video_as_estimated_now() -> None:
    clean = draw_noise(SHAPE, 1)
    asked: list[Tensor] = []

    def back(z: Tensor, sigma: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        return (clean - z) / sigma.view(-1, 1, 1, 1, 1)  # knows the answer at every step

    def picture(z: Tensor) -> np.ndarray:
        asked.append(z)
        return np.zeros((2, 4, 6, 3), np.uint8)

    def listen(event: StepDone) -> None:
        if event.step % 2:
            assert event.preview is not None
            assert event.preview().shape == (2, 4, 6, 3)

    run(back, on_step=listen, preview=picture, guidance=1.0)
    assert len(asked) == 3  # every other step was asked for, and no other was paid for
    for estimate in asked:
        assert torch.allclose(estimate, clean, atol=1e-5)


# ------------------------------------------------------------------------------------- cancellation


@pytest.mark.parametrize("call", [1, 2, 3, 6, 11])
def test_cancelling_takes_effect_before_the_next_pass(call: int) -> None:
    """Odd calls are first passes of a step, so this also stops between the two passes of a step."""
    cancel = CancelToken()
    toy = Toy(lambda calls: cancel.cancel() if calls == call else None)
    with pytest.raises(Cancelled):
        run(toy, cancel=cancel)
    assert len(toy.calls) == call


def test_cancelled_before_it_begins_and_from_another_thread() -> None:
    cancel = CancelToken()

    def from_another(call: int) -> None:
        if call == 5:
            thread = threading.Thread(target=cancel.cancel)
            thread.start()
            thread.join()

    toy = Toy(from_another)
    with pytest.raises(Cancelled):
        run(toy, sigmas=linear_quadratic(200), cancel=cancel)
    assert len(toy.calls) == 5
    again = Toy()
    with pytest.raises(Cancelled):
        run(again, cancel=cancel)
    assert again.calls == []


def test_a_listener_may_stop_the_run_by_raising() -> None:
    def stop(event: StepDone) -> None:
        if event.step == 2:
            raise KeyboardInterrupt

    toy = Toy()
    with pytest.raises(KeyboardInterrupt):
        run(toy, on_step=stop)
    assert len(toy.calls) == 4
    assert torch.is_grad_enabled()


# ---------------------------------------------------------------------------------------- wrapping


def test_a_wrapped_velocity_sees_each_step_and_may_skip_passes() -> None:
    seen: list[int] = []

    def every_other(velocity: Velocity) -> Velocity:
        kept: list[Tensor] = []

        def cached(z: Tensor, sigma: float, step: int) -> Tensor:
            seen.append(step)
            if step % 2 == 0:
                kept[:] = [velocity(z, sigma, step)]
            return kept[0]

        return cached

    toy = Toy()
    out = run(toy, wrap=every_other)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert len(toy.calls) == 6
    assert not torch.equal(out, run())
    assert torch.equal(run(wrap=lambda velocity: velocity), run())


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_velocity_that_is_no_number_names_its_step(bad: float) -> None:
    def broken(z: Tensor, sigma: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        v = torch.zeros_like(z)
        if float(sigma[0]) < 0.92:
            v[0, 3, 1, 2, 2] = bad
        return v

    events: list[StepDone] = []
    expected = next(i for i, sigma in enumerate(SIGMAS) if sigma < 0.92) + 1
    with pytest.raises(SamplingError, match=rf"step {expected} of 6 .* in 1 of 576 values"):
        run(broken, guidance=1.0, on_step=events.append)
    assert len(events) == expected - 1


def test_a_velocity_of_another_shape_is_refused_not_broadcast() -> None:
    with pytest.raises(SamplingError, match="shape"):
        run(lambda z, sigma, text, mask: z[:, :, :1], guidance=1.0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"guidance": [1.0, 2.0]}, "guidance"),
        ({"guidance": [1.0] * 7}, "guidance"),
        ({"guidance": []}, "guidance"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": [1.0] * 5 + [float("inf")]}, "guidance"),
        ({"guidance": "strong"}, "guidance"),
        ({"sigmas": [1.0]}, "sigmas"),
        ({"sigmas": [0.0, 1.0]}, "sigmas"),
        ({"solver": "magic"}, "solver"),
        ({"noise": torch.zeros(12, 2, 4, 6)}, "noise"),
        ({"noise": torch.full(SHAPE, float("nan"))}, "noise"),
        ({"positive": words(0.0, 2, rows=2)}, "text"),
        ({"positive": (POSITIVE[0], POSITIVE[1][:, :3])}, "text"),
        ({"positive": (POSITIVE[0][0], POSITIVE[1][0])}, "text"),
        ({"negative": words(0.0, 2, rows=3)}, "negative_text"),
    ],
)
def test_bad_requests_are_refused_before_any_work(changes: dict[str, Any], field: str) -> None:
    toy = Toy()
    with pytest.raises(RequestError) as caught:
        run(toy, **changes)
    assert caught.value.field == field
    assert toy.calls == []


def test_a_wrong_number_of_scales_says_both_numbers() -> None:
    with pytest.raises(RequestError, match=r"2 scales for 6 steps"):
        run(guidance=[1.0, 2.0])
