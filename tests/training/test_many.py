"""One command for several devices: processes of their own, the same losses, one error for all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.prepared import prepared_folder
from tests.training.toy import Heard

from mochi.core.errors import Cancelled, RequestError
from mochi.training.config import Config
from mochi.training.events import Finished, Started, StepDone, TrainingEvent
from mochi.training.finetune import finetune
from mochi.training.many import devices_for, finetune_on


def config_of(folder: Path, data: Path, **training: object) -> Config:
    return Config.of(
        {
            "data": {"path": str(data)},
            "saving": {"folder": str(folder), "every": 2},
            "training": {"steps": 4, "batch": 2, **training},
            "lora": {"rank": 4},
            "optimiser": {"lr": 0.01, "warmup_steps": 1},
            "validation": {"every": 2},
            "samples": {"every": 4, "prompts": ["a star"], "frames": 7, "height": 32, "width": 32},
        }
    )


def test_devices_that_cannot_share(tmp_path: Path) -> None:
    config = config_of(tmp_path, tmp_path)
    assert devices_for("cpu", 2, config) == ["cpu", "cpu"]
    with pytest.raises(RequestError, match=r"devices=3 are 3 rows, .*batch=2; nearest: 2"):
        devices_for("cpu", 3, config)
    with pytest.raises(RequestError, match=r"devices=3 does not make whole rows of .*; nearest: 2"):
        devices_for("cpu", 3, config_of(tmp_path, tmp_path, context=2))


@pytest.mark.long
@pytest.mark.parametrize("setting", ["data", "context", "shard"])
def test_two_processes_train_as_one(setting: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = prepared_folder(tmp_path / "data")
    alone, together = Heard(), Heard()
    finetune(config_of(tmp_path / "one", data), device="cpu", reporters=[alone])
    changes = {"data": {}, "context": {"context": 2}, "shard": {"shard": True}}[setting]
    config = config_of(tmp_path / "two", data, **changes)
    folder = finetune_on(config, ["cpu", "cpu"], [together])
    assert together.losses == pytest.approx(alone.losses, rel=1e-5)
    kinds = [type(event) for event in together]
    assert kinds == [type(event) for event in alone]
    assert isinstance(together[0], Started)
    assert isinstance(together[-1], Finished)
    assert (folder / "README.md").is_file()


@pytest.mark.long
def test_an_error_of_a_rank_is_the_users(tmp_path: Path) -> None:
    data = prepared_folder(tmp_path / "data")
    config = config_of(tmp_path / "run", data, checkpointed_blocks=9)
    with pytest.raises(RequestError, match="checkpointed_blocks=9 is more than"):
        finetune_on(config, ["cpu", "cpu"])

    def stop(event: TrainingEvent) -> None:
        if isinstance(event, StepDone):
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        finetune_on(config_of(tmp_path / "run", data), ["cpu", "cpu"], [stop])
