"""Checkpoints are whole or absent, averages forget their start, schedules reach their ends."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from mochi.core.errors import WeightsError
from mochi.training.checkpoint import load_checkpoint, resume, save_checkpoint, save_progress
from mochi.training.ema import WeightAverage
from mochi.training.schedule import warmup_cosine


@dataclass(frozen=True)
class Recipe:
    steps: int = 3
    rate: float = 0.1


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"x": torch.ones(3)})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"x": torch.zeros(3)})
    state = load_checkpoint(path)
    assert state is not None
    assert torch.equal(state["x"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_damaged_or_dangerous_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert load_checkpoint(path) is None
    path.write_bytes(b"PK\x03\x04 no")
    with pytest.raises(WeightsError, match="no readable checkpoint"):
        load_checkpoint(path)
    torch.save({"x": Path("/")}, path)
    with pytest.raises(WeightsError, match=r"a\.pt"):
        load_checkpoint(path)


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    average, optimizer = WeightAverage(model, 0.9), torch.optim.AdamW(model.parameters())
    save_progress(tmp_path / "a.pt", 2, Recipe(), model, average, optimizer)
    assert resume(tmp_path / "a.pt", Recipe(), model, average, optimizer) == 2
    with pytest.raises(WeightsError, match=r"another recipe \(differs in rate\)"):
        resume(tmp_path / "a.pt", Recipe(rate=0.2), model, average, optimizer)


def test_the_average_follows_and_lags() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, decay=0.99)
    nn.init.ones_(model.weight)
    seen = []
    for _ in range(1000):
        average.update(model)
        seen.append(float(average.weights["weight"]))
    assert seen[0] == pytest.approx(1 - 2 / 11)
    assert seen == sorted(seen)
    assert seen[-1] > 0.99


def test_warmup_and_cosine() -> None:
    factors = [warmup_cosine(step, 100, 10, floor=0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == pytest.approx(1.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.1)
    assert factors[55] == pytest.approx(0.55, abs=0.01)
