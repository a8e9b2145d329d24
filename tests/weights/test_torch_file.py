"""PyTorch's own files open as data; what would run code does not, and says what it would call."""

import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.weights.marked import State

from mochi.core.errors import WeightsError
from mochi.weights.checkpoint import Checkpoint
from mochi.weights.loading import load_dit
from mochi.weights.torch_file import read_torch_file


class Calls:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("echo this ran",))


def save(path: Path, content: object, old: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        Checkpoint.open(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old format"])
@pytest.mark.parametrize("wrap", [None, "state_dict"])
def test_a_network_is_loaded(states: dict[str, State], tmp_path: Path, old: bool, wrap: str | None):
    state = states["dit"]
    content = {wrap: {**state, "step": 3}, "epoch": 7} if wrap else state
    path = save(tmp_path / "x", content, old)
    network = load_dit(path)
    loaded = network.state_dict()
    assert all(loaded[name].equal(tensor) for name, tensor in state.items())
    assert Checkpoint.open(path).description == "PyTorch, original, float32: dit"


def test_a_zip_is_mapped_not_read(states: dict[str, State], tmp_path: Path):
    path = save(tmp_path / "x", states["dit"])
    raw = {name: stored.raw["data"] for name, stored in read_torch_file(path).items()}
    pointers = sorted(tensor.data_ptr() for tensor in raw.values())
    assert pointers[-1] - pointers[0] < path.stat().st_size


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old format"])
def test_code_is_refused_and_named(tmp_path: Path, capfd: Any, old: bool):
    path = save(tmp_path / "x", {"w": torch.ones(2), "evil": Calls()}, old)
    assert "would run code when opened: it calls posix.system" in refusal(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_bare_pickle_is_refused_and_named(tmp_path: Path, capfd: Any, protocol: int):
    (tmp_path / "x").write_bytes(pickle.dumps({"w": Calls()}, protocol=protocol))
    assert "it calls posix.system" in refusal(tmp_path / "x")
    assert capfd.readouterr().out == ""


def test_a_whole_module_is_code(tmp_path: Path):
    text = refusal(save(tmp_path / "x", torch.nn.Linear(2, 2)))
    assert "torch.nn.modules.linear.Linear" in text


def test_a_program_is_code(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("m/constants.pkl", b"")
    assert "TorchScript program" in refusal(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "holds a list"),
        ({}, "no tensors"),
        ({"a": 3}, "no tensors"),
        ({"ema": {"x": torch.ones(1)}, "net": {"x": torch.ones(1)}}, r"\(ema, net\); keep one"),
        ({"x": torch.ones(1).expand(10**9)}, "4000000000 bytes in a file of"),
        ({"x": torch.eye(3).to_sparse()}, "sparse_coo"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path: Path, content: object, says: str):
    with pytest.raises(WeightsError, match=says):
        Checkpoint.open(save(tmp_path / "x", content))


def test_archives_of_others(tmp_path: Path):
    path = tmp_path / "x"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"")
    assert "no data.pkl" in refusal(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**7))
    assert "compressed" in refusal(path)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
@given(st.data())
def test_damaged_files_never_crash(tmp_path: Path, data: st.DataObject):
    old = data.draw(st.booleans())
    path = save(tmp_path / "x", {"w": torch.arange(8.0), "n": {"k": 3}}, old)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(8, len(raw)))])
    with suppress(WeightsError):
        for stored in read_torch_file(path).values():
            stored.dense()
