"""Files written from a plan: readable by the libraries they are for, whole or not there at all."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from mochi.core.errors import OutputError
from mochi.weights.containers import Contents
from mochi.weights.quantize import BLOCK_FORMS
from mochi.weights.shards import shards
from mochi.weights.tensors import TensorFile
from mochi.weights.write import Piece, PlannedFile, copied_file, text_file, write_files
from mochi.weights.write_gguf import gguf_file
from mochi.weights.write_safetensors import safetensors_file, safetensors_shards


def piece(name: str, tensor: Tensor, pieces: int = 1) -> Piece:
    def chunks() -> Iterator[Tensor]:
        yield from tensor.split(max(1, -(-len(tensor) // pieces))) if tensor.ndim else [tensor]

    kind = str(tensor.dtype).removeprefix("torch.")
    return Piece(name, kind, tuple(tensor.shape), tensor.nbytes, chunks)


def some_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "marks": torch.arange(7, dtype=torch.uint8),
        "eighths": torch.randn(5, 3, generator=generator).to(torch.float8_e4m3fn),
        "half": torch.randn(3, 5, 2, generator=generator).half(),
        "wide": torch.randn(6, 4, generator=generator),
        "brain": torch.randn(3, generator=generator).bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# ------------------------------------------------------------------------------------- safetensors


def test_safetensors_reads_what_we_write(tmp_path: Path):
    tensors = some_tensors()
    pieces = [piece(name, tensor, pieces=2) for name, tensor in tensors.items()]
    planned = safetensors_file("a.safetensors", pieces, {"format": "pt", "note": "é"})
    write_files(tmp_path, [planned])
    path = tmp_path / "a.safetensors"
    assert path.stat().st_size == planned.nbytes
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "note": "é"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            read = file.get_tensor(name)
            assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
            assert read.view(-1).view(torch.uint8).equal(tensor.view(-1).view(torch.uint8))
    for info in TensorFile(path).header.tensors.values():
        assert info.start % info.dtype.itemsize == 0


def test_shards_and_their_index(tmp_path: Path):
    tensors = {f"t{i}": torch.full((25,), float(i)) for i in range(7)}
    pieces = [piece(name, tensor) for name, tensor in tensors.items()]
    write_files(tmp_path, safetensors_shards("part/model", pieces, shard_bytes=250))
    names = sorted(path.name for path in (tmp_path / "part").iterdir())
    assert names == [
        *(f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)),
        "model.safetensors.index.json",
    ]
    found = Contents.open(shards(tmp_path / "part" / "model.safetensors.index.json")).tensors
    assert all(found[name].dense().equal(tensor) for name, tensor in tensors.items())
    whole = safetensors_shards("part/model", pieces, shard_bytes=1000)
    assert [file.name for file in whole] == ["part/model.safetensors"]


def test_a_tensor_larger_than_a_shard_has_one_for_itself():
    pieces = [piece(name, torch.zeros(100)) for name in "ab"]
    assert len(safetensors_shards("m", pieces, shard_bytes=1)) == 3


# -------------------------------------------------------------------------------------------- gguf


def test_gguf_reads_what_we_write(tmp_path: Path):
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    plain = {k: t for k, t in some_tensors().items() if k in ("half", "wide", "brain")}
    pieces = [piece(name, tensor) for name, tensor in plain.items()]
    for name, form in BLOCK_FORMS.items():
        packed = form.pack(weight)
        pieces.append(Piece(name, name, (6, 64), packed.nbytes, lambda packed=packed: [packed]))
    planned = gguf_file("a.gguf", pieces, {"general.name": "tiny", "tiny.epsilon": 0.5})
    write_files(tmp_path, [planned])
    assert (tmp_path / "a.gguf").stat().st_size == planned.nbytes
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.fields["general.architecture"].contents() == "mochi"
    assert reader.fields["general.name"].contents() == "tiny"
    assert reader.fields["tiny.epsilon"].contents() == 0.5
    assert reader.fields["general.quantization_version"].contents() == gguf.GGML_QUANT_VERSION
    read = {tensor.name: tensor for tensor in reader.tensors}
    assert list(read) == [p.name for p in pieces]
    for p in pieces:
        assert tuple(reversed(read[p.name].shape.tolist())) == p.shape
    for name in BLOCK_FORMS:
        kind = gguf.GGMLQuantizationType[name.upper()]
        assert read[name].tensor_type == kind
        expected = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
        again = gguf.quants.dequantize(read[name].data, kind)
        assert (again == expected).all()
    assert torch.tensor(read["wide"].data).equal(plain["wide"])
    assert torch.tensor(read["half"].data).equal(plain["half"])
    assert bytes(read["brain"].data) == bytes(plain["brain"].view(torch.uint8).numpy())


def test_gguf_files_are_bit_for_bit_those_of_the_gguf_writer(tmp_path: Path):
    tensors = {"b": torch.randn(5), "a": torch.randn(3, 32), "c": torch.randn(2, 3, 2, 2)}
    write_files(tmp_path, [gguf_file("ours.gguf", [piece(n, t) for n, t in tensors.items()])])
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "mochi")
    writer.add_type("model")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


# --------------------------------------------------------------------------------- whole or nothing


def failing(name: str, error: BaseException) -> PlannedFile:
    def write(file: object, on_bytes: object) -> None:
        raise error

    return PlannedFile(name, 10, write)


ERRORS = [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, error: BaseException):
    folder = tmp_path / "new" / "model"
    files = [text_file("dit/config.json", "{}"), failing("dit/weights", error)]
    with pytest.raises((OutputError, KeyboardInterrupt, ValueError)):
        write_files(folder, files)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    (tmp_path / "a.json").write_text("old")
    files = [text_file("a.json", "new"), failing("b", OSError(errno.ENOSPC, "No space left"))]
    with pytest.raises(OutputError, match="cannot be written: No space left"):
        write_files(tmp_path, files, overwrite=True)
    assert content(tmp_path) == {"a.json": b"old"}


@pytest.mark.parametrize("moment", range(5))
@pytest.mark.parametrize("done_already", [False, True])
def test_a_failure_while_names_change_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, done_already: bool
):
    """At each renaming, and, as Ctrl-C may, right behind each."""
    for name in ("a", "b", "stale"):
        (tmp_path / name).write_text(f"old {name}")
    before = content(tmp_path)
    rename, calls = os.rename, iter(range(10))

    def flaky(source: Path, target: Path) -> None:
        fails = next(calls) == moment
        if fails and not done_already:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)
        if fails:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", flaky)
    files = [text_file("a", "new"), text_file("b", "new")]
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_files(tmp_path, files, overwrite=True, obsolete=["stale"])
    assert content(tmp_path) == before


def test_what_exists_is_replaced_only_when_asked(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "stale").write_text("old")
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OutputError, match="a: exists; --overwrite replaces it"):
        write_files(tmp_path, [text_file("a", "new")], obsolete=["stale"])
    write_files(tmp_path, [text_file("c", "new")], obsolete=["stale"])
    assert (tmp_path / "stale").exists()
    write_files(tmp_path, [text_file("a", "new")], overwrite=True, obsolete=["stale", "absent"])
    assert content(tmp_path) == {"a": b"new", "c": b"new", "mine": b"mine"}


def test_a_folder_in_the_place_of_a_file_and_the_other_way_round(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("")
    for overwrite in (True, False):
        with pytest.raises(OutputError, match="is a folder"):
            write_files(tmp_path, [text_file("a", "")], overwrite)
        with pytest.raises(OutputError, match="exists and is no folder"):
            write_files(tmp_path / "b", [text_file("x", "")], overwrite)
        with pytest.raises(OutputError, match="cannot be written"):
            write_files(tmp_path / "b" / "c", [text_file("x", "")], overwrite)


def test_a_disk_that_is_too_small_is_known_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    large = PlannedFile("a", 20_000_000_000, lambda file, on_bytes: None)
    with pytest.raises(OutputError, match=r"20\.0 GB are needed, its disk has room for 1\.0 MB"):
        write_files(tmp_path / "new", [large])
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_is_refused_and_leftovers_are_thrown_away(tmp_path: Path):
    staging = tmp_path / ".mochi-part"
    (staging / "new").mkdir(parents=True)
    (staging / "new" / "a").write_text("half")
    lock = os.open(staging, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match="another run is writing here"):
        write_files(tmp_path, [text_file("a", "new")])
    os.close(lock)
    write_files(tmp_path, [text_file("a", "new")])
    assert content(tmp_path) == {"a": b"new"}


def test_progress_counts_every_byte(tmp_path: Path):
    (tmp_path / "source").write_bytes(bytes(3_000))
    tensors = some_tensors()
    files = [
        safetensors_file("a", [piece(n, t) for n, t in tensors.items()]),
        gguf_file("b", [piece("wide", tensors["wide"])]),
        copied_file("c", tmp_path / "source"),
        text_file("d", "é"),
    ]
    seen: list[tuple[str, int, int]] = []
    write_files(tmp_path / "out", files, on_progress=lambda *progress: seen.append(progress))
    assert [name for name, *_ in seen] == sorted(name for name, *_ in seen)
    assert seen[-1][1] == seen[-1][2] == sum(file.nbytes for file in files)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
