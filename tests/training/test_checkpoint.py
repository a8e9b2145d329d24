"""Checkpoints are whole or absent, averages forget their start, schedules reach their ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from mochi.core.errors import OutputError, TrainingError, WeightsError
from mochi.training.checkpoint import load_checkpoint, save_checkpoint
from mochi.training.checkpoints import Checkpoints, FolderLock
from mochi.training.ema import WeightAverage
from mochi.training.schedule import warmup_cosine


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


def test_another_config_is_refused_and_named(tmp_path: Path) -> None:
    identity = {"optimiser": {"lr": 0.1, "name": "adamw"}, "base": "abc"}
    Checkpoints(tmp_path, identity, keep=2).save(2, {"x": torch.ones(2)})
    state = Checkpoints(tmp_path, identity, keep=2).last()
    assert state is not None
    assert state["step"] == 2
    other = {"optimiser": {"lr": 0.2, "name": "adamw"}, "base": "abd"}
    wanted = r"base was 'abc' and is 'abd'; optimiser\.lr was 0\.1 and is 0\.2\. Put that back"
    with pytest.raises(WeightsError, match=wanted):
        Checkpoints(tmp_path, other, keep=2).last()


def test_the_last_few_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {}, keep=2)
    assert checkpoints.last() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": torch.full((2,), float(step))})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002.pt",
        "step-00000003.pt",
    ]


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, {}, keep=1)
    checkpoints.save(1, {"x": torch.ones(3)})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="the one of step 1 is whole"):
            checkpoints.save(2, {"x": torch.zeros(3)})
    state = checkpoints.last()
    assert state is not None
    assert state["step"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {}, keep=2)
    checkpoints.save(1, {"x": torch.ones(3)})
    checkpoints.save(2, {"x": torch.ones(3)})
    (tmp_path / "step-00000002.pt").write_bytes(b"PK\x03\x04 no")
    said: list[str] = []
    state = checkpoints.last(said.append)
    assert state is not None
    assert state["step"] == 1
    assert "step-00000002.pt" in said[0]
    (tmp_path / "step-00000001.pt").write_bytes(b"")
    with pytest.raises(WeightsError, match="no readable checkpoint"):
        checkpoints.last()


def test_a_folder_is_one_trainings(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(TrainingError, match="by another training"):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()


def test_the_average_follows_and_lags() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    weights = dict(model.named_parameters())
    average = WeightAverage(weights, decay=0.99)
    nn.init.ones_(model.weight)
    seen = []
    for _ in range(1000):
        average.update(weights)
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
