"""Tensors are views of the file, may be written to, and never change it."""

import gc
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save, save_file

from mochi.core.errors import WeightsError
from mochi.weights.containers import Contents
from mochi.weights.tensors import TensorFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "some.safetensors"
    tensors = {
        "grid": torch.arange(12.0).view(3, 4),
        "half": torch.arange(5, dtype=torch.bfloat16),
        "one": torch.tensor(7.0),
        "none": torch.zeros(0, 3),
    }
    save_file(tensors, file)
    return file


def test_tensors_are_those_that_were_saved(path: Path):
    file = TensorFile(path)
    assert set(file.names()) == {"grid", "half", "one", "none"}
    assert file.shape("grid") == (3, 4)
    assert file.dtype("half") == torch.bfloat16
    assert file.tensor("grid").equal(torch.arange(12.0).view(3, 4))
    assert file.tensor("half").tolist() == [0, 1, 2, 3, 4]
    assert file.tensor("one").shape == ()
    assert file.tensor("none").shape == (0, 3)


def test_two_views_share_memory_and_outlive_the_file_object(path: Path):
    file = TensorFile(path)
    first, second = file.tensor("grid"), file.tensor("grid")
    assert first.data_ptr() == second.data_ptr()
    del file
    gc.collect()
    assert first.sum() == 66


def test_a_tensor_owns_its_bytes_alone(path: Path, tmp_path: Path):
    """Else saving or copying one tensor would drag the whole file along."""
    tensor = TensorFile(path).tensor("grid")
    assert tensor.untyped_storage().nbytes() == 12 * 4
    torch.save(tensor, tmp_path / "one.pt")
    assert (tmp_path / "one.pt").stat().st_size < 3000
    path.unlink()  # a replaced file does not matter to who has it open
    assert tensor.sum() == 66


def test_writing_neither_warns_nor_reaches_the_file(path: Path):
    before = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = TensorFile(path).tensor("grid")
        grid.zero_()
    assert not grid.any()
    assert path.read_bytes() == before
    assert TensorFile(path).tensor("grid").sum() == 66


def test_data_that_are_not_aligned_are_copied_and_right(tmp_path: Path):
    raw = save({"x": torch.arange(4.0)})
    header = raw[8 : 8 + int.from_bytes(raw[:8], "little")].rstrip() + b" "
    if (8 + len(header)) % 4 == 0:
        header += b" "
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[-16:])
    tensor = TensorFile(path).tensor("x")
    assert tensor.tolist() == [0, 1, 2, 3]
    assert tensor.data_ptr() % 4 == 0


def test_an_unknown_name_is_a_clear_error(path: Path):
    with pytest.raises(WeightsError, match="holds no tensor 'other'"):
        TensorFile(path).tensor("other")


def no_file(folder: Path) -> Path:
    return folder / "none.safetensors"


def a_folder(folder: Path) -> Path:
    return folder


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def a_loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_file, "No such file"),
        (a_folder, "is a folder"),
        (a_pipe, "no regular file"),
        (a_loop, "cannot be read"),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], Path], says: str
):
    with pytest.raises(WeightsError, match=says):
        TensorFile(make(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files and overcommit as Linux has them")
def test_a_file_larger_than_the_memory_can_be_mapped(tmp_path: Path):
    count = 2 * psutil.virtual_memory().total + psutil.swap_memory().total
    header = f'{{"x":{{"dtype":"U8","shape":[{count}],"data_offsets":[0,{count}]}}}}'.encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + count)  # a hole: no disk is used
    tensor = TensorFile(path).tensor("x")
    assert tensor.numel() == count
    tensor[count // 2] = 1
    assert tensor[count // 2] == 1


def test_shards_are_one_checkpoint(tmp_path: Path):
    save_file({"a": torch.ones(1)}, tmp_path / "1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "2.safetensors")
    files = Contents.open([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])
    assert {name: stored.shape for name, stored in files.tensors.items()} == {"a": (1,), "b": (2,)}
    assert files.tensors["b"].dense().equal(torch.ones(2))
    assert files.label.endswith("1.safetensors (and 1 more)")


def test_a_name_in_two_shards_is_an_error(tmp_path: Path):
    for name in ("1", "2"):
        save_file({"a": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match=r"holds 'a', as does .*1\.safetensors"):
        Contents.open([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])
