"""kill -9 at random moments: what comes out in the end is what would have come out anyway."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import defaultdict
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from tests.training.toy import Heard, toy_config, toy_trainer

from mochi.training.events import StepDone, TrainingEvent

CONFIG = toy_config(
    training={"steps": 12},
    lora={"dropout": 0.1},
    optimiser={"ema": 0.9},
    saving={"every": 2, "keep": 1},
)


class Written(Heard):
    """A reporter that writes every loss to a file, with all its bits."""

    def __init__(self, path: Path):
        super().__init__()
        self._path = path

    def __call__(self, event: TrainingEvent) -> None:
        super().__call__(event)
        if isinstance(event, StepDone):
            with self._path.open("a") as file:
                file.write(json.dumps([event.step, event.loss.hex()]) + "\n")


def train(folder: Path) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    trainer = toy_trainer(folder, CONFIG, Written(folder.with_suffix(".jsonl")))
    trainer.run()
    weights = trainer.average.weights if trainer.average else {}
    torch.save(dict(weights), folder.with_suffix(".pt"))


def losses_in(path: Path) -> dict[int, set[str]]:
    """All losses that were told of each step; a line that a kill cut short is none."""
    found: dict[int, set[str]] = defaultdict(set)
    for line in path.read_text().splitlines():
        try:
            step, loss = json.loads(line)
        except ValueError:
            continue
        found[step].add(loss)
    return found


def killed_again_and_again(folder: Path, kills: int, longest: float) -> None:
    """Start, kill at a random moment, and so on until so many kills have hit; then let it end."""
    chance, hits = random.Random(0), 0
    for _ in range(20 * kills):
        # Forked, so that no time goes into imports: a moment is one of the training.
        process = get_context("fork").Process(target=train, args=(folder,))
        process.start()
        if hits < kills:
            time.sleep(chance.uniform(0.0, longest))
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        if process.exitcode != 0:
            hits += 1
        elif hits == kills:
            return
        else:  # it was quicker than the kill: once more from the start, and sooner
            longest *= 0.7
            for path in folder.glob("*.pt"):
                path.unlink()
    raise AssertionError(f"only {hits} of {kills} kills came before the end")


def check(tmp_path: Path, kills: int) -> None:
    torch.set_num_threads(1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    begun = time.monotonic()
    train(whole)
    killed_again_and_again(cut, kills, (time.monotonic() - begun) / 2)
    one, many = losses_in(whole.with_suffix(".jsonl")), losses_in(cut.with_suffix(".jsonl"))
    assert one == many
    assert sorted(one) == list(range(1, 13))
    first, second = (torch.load(path.with_suffix(".pt")) for path in (whole, cut))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
    assert [path.name for path in cut.iterdir()] == ["step-00000012.pt"]


def test_kills(tmp_path: Path) -> None:
    check(tmp_path, 3)


@pytest.mark.long
def test_twenty_kills(tmp_path: Path) -> None:
    check(tmp_path, 20)
