"""The trainer: the published loss, exact resumption, gradients by two routes, honest failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.toy import Heard, Stop, ToyClips, stopping, toy_config, toy_dit, toy_trainer

from mochi.core.errors import TrainingError
from mochi.training.checkpoints import Checkpoints
from mochi.training.config import Config
from mochi.training.data.dataset import LoadedSample
from mochi.training.draws import order, row_generator, seeded, spread
from mochi.training.events import Saved, Started
from mochi.training.flow import make_row, row_losses
from mochi.training.sigma import sigma_at

KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "lora": {"lora": {"dropout": 0.2}, "optimiser": {"ema": 0.9}},
    "full": {"model": {"train": "full"}},
    "8 bit": {"optimiser": {"name": "adamw8bit"}},
    "muon": {"optimiser": {"name": "muon"}, "training": {"accumulate": 3}},
}


def test_the_loss_is_the_published_one() -> None:
    clip, generator = ToyClips().load(3), row_generator(0, 0, 0)
    row = make_row(clip, 0, 0.3, generator, dropout=0.0)
    again = row_generator(0, 0, 0)
    noise_of_posterior = torch.randn(clip.mean_CTHW.shape, generator=again).double()
    z0 = clip.mean_CTHW.double() + (clip.logvar_CTHW.double() / 2).exp() * noise_of_posterior
    eps = torch.randn(clip.mean_CTHW.shape, generator=again).double()
    dit = toy_dit().double()
    with torch.no_grad():
        velocity = dit(
            ((1 - 0.3) * z0 + 0.3 * eps)[None],
            torch.tensor([0.3]),
            clip.text_NF.double()[None],
            torch.ones(1, 3, dtype=torch.bool),
        )[0]
        by_hand = ((velocity.double() - (z0 - eps)) ** 2).mean()
        loss = row_losses(toy_dit(), [row], torch.device("cpu"))[0]
    assert float(loss) == pytest.approx(float(by_hand), rel=2e-5)


def test_an_adapters_gradient_is_the_full_ones_seen_through_it(tmp_path: Path) -> None:
    """dL/dB = scale * dL/dW A^T, and A gets none while B is zero."""
    adapted = toy_trainer(tmp_path, toy_config(), Heard())
    full = toy_trainer(tmp_path, toy_config(model={"train": "full"}), Heard())
    for trainer in (adapted, full):
        for piece in trainer.task.pieces(0):
            piece().loss.backward()
    name = "blocks.0.attn.qkv_x"
    a = adapted.task.parameters[f"{name}.0.lora_A"]
    b = adapted.task.parameters[f"{name}.0.lora_B"]
    weight = full.task.parameters[f"{name}.weight"]
    assert a.grad is not None
    assert b.grad is not None
    assert weight.grad is not None
    assert torch.allclose(b.grad, weight.grad @ a.detach().T, rtol=1e-4, atol=1e-7)
    assert float(a.grad.abs().max()) == 0.0


def test_pieces_and_recomputation_change_no_gradient(tmp_path: Path) -> None:
    found = []
    for accumulate, recomputed in ((1, 0), (1, 2), (4, 1)):
        config = toy_config(training={"accumulate": accumulate}, model={"train": "full"})
        trainer = toy_trainer(tmp_path, config, Heard())
        trainer.task.dit.residency.count = recomputed  # type: ignore[attr-defined]
        for piece in trainer.task.pieces(1):
            piece().loss.backward()
        found.append({n: p.grad for n, p in trainer.task.parameters.items() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name
        assert torch.allclose(gradient, found[2][name], rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_training_goes_on_bit_for_bit(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(**KINDS[kind])
    whole, first, second = Heard(), Heard(), Heard()
    one = toy_trainer(tmp_path / "whole", config, whole)
    one.run()
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stopping(2))
        with pytest.raises(Stop):
            toy_trainer(tmp_path / "cut", config, first).run()
    other = toy_trainer(tmp_path / "cut", config, second)
    other.run()
    assert second[0] == Started(4, 6, tmp_path / "cut", {}, {})
    assert first.losses + second.losses == whole.losses
    for name, parameter in one.task.parameters.items():
        assert torch.equal(parameter, other.task.parameters[name]), name
    if one.average is not None and other.average is not None:
        for name, weight in one.average.weights.items():
            assert torch.equal(weight, other.average.weights[name]), name
    assert any(isinstance(event, Saved) for event in second)


def test_it_learns(tmp_path: Path) -> None:
    config = toy_config(
        model={"train": "full"},
        training={"steps": 30},
        optimiser={"name": "muon", "lr": 0.03},
        saving={"every": 100},
    )
    heard = Heard()
    toy_trainer(tmp_path, config, heard).run()
    assert sum(heard.losses[-5:]) < 0.95 * sum(heard.losses[:5])


class Spoiled(ToyClips):
    """Clip 2 is spoiled."""

    def load(self, index: int) -> LoadedSample:
        made = super().load(index)
        if index == 2:
            made.mean_CTHW[0, 0, 0, 0] = torch.nan
        return made


def test_a_loss_that_is_no_number_stops_at_its_clip(tmp_path: Path) -> None:
    config = toy_config(training={"batch": 1, "steps": 20}, saving={"every": 1})
    heard = Heard()
    trainer = toy_trainer(tmp_path, config, heard, clips=Spoiled())
    with pytest.raises(TrainingError, match=r"the loss is NaN or infinite at clip2\.mp4; .*whole"):
        trainer.run()
    assert all(p.isfinite().all() for p in trainer.task.parameters.values())
    last = Checkpoints(tmp_path, config.to_dict(), 2).last()
    assert last is not None
    assert last["step"] == len(heard.steps)


def test_every_clip_comes_once_a_round() -> None:
    seen = [place for step in range(6) for place in order(7, step * 7 // 2, 7 // 2, seed=1)]
    lined_up = order(7, 0, 14, seed=1)
    assert sorted(lined_up[:7]) == sorted(lined_up[7:]) == list(range(7))
    assert lined_up[:7] != lined_up[7:]
    assert seen[:3] == lined_up[:3]
    assert order(7, 5, 4, seed=1) == lined_up[5:9]
    assert order(7, 5, 4, seed=2) != lined_up[5:9]


def test_draws_are_spread_and_repeat() -> None:
    numbers = spread(8, seed=0, step=5)
    assert sorted(int(number * 8) for number in numbers) == list(range(8))
    assert numbers == spread(8, seed=0, step=5) != spread(8, seed=0, step=6)
    state = torch.get_rng_state()
    with seeded(0, 1, 2, torch.device("cpu")):
        inside = torch.rand(3)
    with seeded(0, 1, 2, torch.device("cpu")):
        assert torch.equal(torch.rand(3), inside)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["uniform", "logit-normal", "shifted"])
def test_noise_levels_rise_with_their_share(name: str) -> None:
    settings = Config.of({"training": {"sigma": name}}).training
    levels = [sigma_at(share / 100, settings) for share in range(101)]
    assert levels == sorted(levels)
    assert 0 <= levels[0] < 0.01 < 0.99 < levels[-1] <= 1
    middle = {"uniform": 0.5, "logit-normal": 0.5, "shifted": 0.75}[name]
    assert levels[50] == pytest.approx(middle)
