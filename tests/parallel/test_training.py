"""Training on many devices: the losses of one, whatever the rows of data and context."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parallel.crew import Crew
from tests.training.toy import Heard, toy_config, toy_trainer

from mochi.core.errors import RequestError
from mochi.parallel.group import Group, Traffic
from mochi.parallel.sums import sum_in_place
from mochi.parallel.world import World
from mochi.training.team import Team, context_scheme


def losses_of(
    world: World | None, steps: int, batch: int, context: int, train: str, shard: bool = False
) -> tuple[list[float], list[float]]:
    """Losses and norms of the gradients, as the first process tells them."""
    sections: dict[str, dict[str, Any]] = {
        "training": {"steps": steps, "batch": batch, "context": context, "shard": shard},
        "model": {"train": train},
        "saving": {"every": 1000},
    }
    heard, team = Heard(), Team(world, context)
    with tempfile.TemporaryDirectory() as folder:
        toy_trainer(Path(folder), toy_config(**sections), heard, team).run()
    return heard.losses, [event.grad_norm for event in heard.steps]


@pytest.mark.parametrize(
    ("ranks", "context", "batch", "train"),
    [(2, 1, 4, "lora"), (2, 2, 4, "full"), (4, 2, 3, "lora")],
)
def test_many_train_as_one(ranks: int, context: int, batch: int, train: str, crew: Crew) -> None:
    check(crew, 8, ranks, context, batch, train)


@pytest.mark.long
@pytest.mark.parametrize("train", ["lora", "full"])
@pytest.mark.parametrize(("ranks", "context"), [(2, 1), (2, 2), (4, 1), (4, 2), (4, 4)])
def test_many_train_as_one_for_fifty_steps(
    ranks: int, context: int, train: str, crew: Crew
) -> None:
    check(crew, 50, ranks, context, 4, train)


def check(crew: Crew, steps: int, ranks: int, context: int, batch: int, train: str) -> None:
    alone, alone_norms = losses_of(None, steps, batch, 1, train)
    (losses, norms), *others = crew.run(ranks, losses_of, steps, batch, context, train)
    assert losses == pytest.approx(alone, rel=1e-5)
    assert norms == pytest.approx(alone_norms, rel=1e-3)
    assert others == [([], [])] * (ranks - 1)


@pytest.mark.parametrize(("ranks", "context"), [(3, 1), (4, 2)])
def test_a_base_in_parts(ranks: int, context: int, crew: Crew) -> None:
    """Batch 4 on three devices: they go through the base equally often all the same."""
    alone, _ = losses_of(None, 4, 4, 1, "lora")
    (losses, _), *_ = crew.run(ranks, losses_of, 4, 4, context, "lora", True)
    assert losses == pytest.approx(alone, rel=1e-5)


def summed(world: World) -> list[torch.Tensor]:
    mine = [torch.full((3,), world.rank + 1.0), torch.full((2, 2), 10.0 * world.rank)]
    mine.append(torch.tensor([world.rank], dtype=torch.float64))
    sum_in_place(mine, Group(range(world.size), world, "sums", Traffic()), "sums")
    return mine


def test_sums_are_the_same_everywhere(crew: Crew) -> None:
    for one in crew.run(3, summed):
        assert torch.equal(one[0], torch.full((3,), 6.0))
        assert torch.equal(one[1], torch.full((2, 2), 30.0))
        assert one[2].tolist() == [3.0]


def come_and_go(world: World) -> int:
    return sum(Group(range(world.size), world, str(n), Traffic()).size for n in range(40))


def test_a_group_that_is_let_go_at_once_waits_for_slower_ranks(crew: Crew) -> None:
    with crew.halting(1):
        assert crew.run(2, come_and_go) == [80, 80]


def test_devices_make_whole_rows() -> None:
    with pytest.raises(RequestError, match=r"training\.context=2 does not divide the 1 devices"):
        Team(None, 2)
    assert str(context_scheme(2, 24)) == "guidance=1,ulysses=2,ring=1"
    assert str(context_scheme(2, 3)) == "guidance=1,ulysses=1,ring=2"
