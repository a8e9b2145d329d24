"""What `mochi doctor` knows."""

import os
from pathlib import Path

import pytest

import mochi
from mochi.core.errors import RequestError
from mochi.core.sizes import VideoSize
from mochi.pipeline import budget
from mochi.pipeline.devices import multiplies_in_bfloat16, pick_device, present_devices
from mochi.pipeline.models import Hub
from mochi.pipeline.survey import survey_machine, survey_models


def test_the_machine_is_this_one() -> None:
    machine = survey_machine()
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert 0 < machine.available_bytes <= machine.memory_bytes
    assert machine.mochi == mochi.__version__
    assert machine.packages["torch"].startswith("2.")
    assert [device.name for device in machine.devices] == present_devices()
    assert machine.devices[-1].name == "cpu"
    able = multiplies_in_bfloat16()
    assert machine.devices[-1].dtypes == ("float32", "bfloat16")[: 1 + able]


def test_models_say_what_fits(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(cache=tmp_path)
    by_name = {state.name: state for state in survey_models([str(tiny_model)], "cpu", hub)}
    state = by_name[str(tiny_model)]
    assert state.default == state.fits == VideoSize(13, 32, 32)
    assert state.weights_bytes > 1_000_000
    need = max(
        need.total for need in mochi.load(str(tiny_model)).budget.needs(VideoSize(7, 32, 32))
    )
    monkeypatch.setattr(budget, "host_available_bytes", lambda: need)
    again = {state.name: state for state in survey_models([str(tiny_model)], "cpu", hub)}
    assert again[str(tiny_model)].fits in (VideoSize(7, 32, 32), VideoSize(13, 32, 32))
    monkeypatch.setattr(budget, "host_available_bytes", lambda: 1)
    none = {state.name: state for state in survey_models([str(tiny_model)], "cpu", hub)}
    assert none[str(tiny_model)].fits is None


def test_a_folder_that_is_no_model_is_a_finding_not_an_error(tmp_path: Path) -> None:
    (state,) = [
        state
        for state in survey_models([str(tmp_path), "no/such"], "cpu", Hub(cache=tmp_path))
        if state.name == str(tmp_path)
    ]
    assert "dit.safetensors" in state.problem


def test_devices_are_checked() -> None:
    assert pick_device("cpu").type == "cpu"
    assert str(pick_device("auto")) == present_devices()[0]
    for name in ("cuda:99", "gpu", "", "meta"):
        with pytest.raises(RequestError, match="cpu"):
            pick_device(name)
