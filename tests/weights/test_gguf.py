"""A .gguf file is refused in one line, or it is read as the `gguf` package reads it."""

import gc
import os
import struct
import weakref
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.weights.marked import random_blocks, write_gguf

from mochi.core.errors import WeightsError
from mochi.model.blocks import CODECS
from mochi.weights.checkpoint import Checkpoint
from mochi.weights.ggml import FLOAT_TYPES, TYPES
from mochi.weights.gguf import GgufFile

TYPE_OF = {name: number for number, name in TYPES.items()}
one_file = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


def entry(name: str, code: int, value: bytes) -> bytes:
    raw = name.encode()
    return struct.pack("<Q", len(raw)) + raw + struct.pack("<I", code) + value


def info(name: str, shape: tuple[int, ...], code: int, offset: int) -> bytes:
    raw = name.encode()
    return (
        struct.pack("<Q", len(raw)) + raw + struct.pack("<I", len(shape))
        + b"".join(struct.pack("<Q", size) for size in reversed(shape))
        + struct.pack("<IQ", code, offset)
    )  # fmt: skip


def build(
    infos: list[bytes],
    entries: list[bytes] = [],  # noqa: B006 (never changed)
    data: bytes = b"",
    version: int = 3,
    tensors: int | None = None,
) -> bytes:
    count = len(infos) if tensors is None else tensors
    head = b"GGUF" + struct.pack("<IQQ", version, count, len(entries))
    head += b"".join(entries) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data


GOOD = build(
    [info("a", (2, 3), 0, 0), info("b", (4, 32), TYPE_OF["Q8_0"], 32)],
    [entry("general.architecture", 8, struct.pack("<Q", 5) + b"mochi"), entry("n", 4, b"\1\0\0\0")],
    bytes(range(24)) + bytes(8) + bytes(136),
)


def refusal(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    with pytest.raises(WeightsError) as caught:
        GgufFile(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_a_good_file_by_hand(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(GOOD)
    file = GgufFile(tmp_path / "x")
    assert {n: (t.kind, t.shape, t.nbytes) for n, t in file.tensors.items()} == {
        "a": ("float32", (2, 3), 24),
        "b": ("q8_0", (4, 32), 136),
    }
    assert file.metadata == {"general.architecture": "mochi", "n": "1"}


def test_the_map_goes_with_the_last_tensor(tmp_path: Path) -> None:
    """No cycle keeps it: a map that waits for the garbage collector counts as memory."""
    (tmp_path / "x").write_bytes(GOOD)
    file = GgufFile(tmp_path / "x")
    seen, tensors = weakref.ref(file), file.tensors
    gc.disable()
    try:
        del file
        assert seen() is None
    finally:
        gc.enable()
    assert tensors["b"].dense().shape == (4, 32)


@pytest.mark.parametrize("kind", [*CODECS, *FLOAT_TYPES])
def test_every_kind_is_read_as_the_package_reads_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    tensor = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    if kind == "f64":
        writer = gguf.GGUFWriter(path, "mochi")
        writer.add_tensor("t", tensor.double().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        write_gguf(path, {"t": tensor}, lambda *_: kind)
    (theirs,) = gguf.GGUFReader(path).tensors
    ours = GgufFile(path).tensors["t"]
    assert ours.shape == tuple(reversed(theirs.shape.tolist())) == (3, 256)
    assert ours.nbytes == theirs.n_bytes
    expected = (
        gguf.quants.dequantize(theirs.data, theirs.tensor_type) if kind != "f64" else (theirs.data)
    )
    assert np.array_equal(ours.dense(torch.float64).numpy(), expected.astype(np.float64))


def test_metadata_of_all_types_and_lists_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "mochi")
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(1000)])
    writer.add_array("scores", [0.5] * 1000)
    writer.add_array("few", [1, 2, 3])
    writer.add_bool("yes", True)
    writer.add_float64("half", 0.5)
    writer.add_int8("small", -3)
    writer.add_custom_alignment(64)
    writer.add_tensor("t", np.arange(5, dtype=np.float32))
    writer.add_tensor("u", np.arange(7, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(path)
    assert file.metadata | {"few": "[1, 2, 3]", "yes": "True", "half": "0.5", "small": "-3"} == (
        file.metadata
    )
    assert "scores" not in file.metadata
    assert file.tensors["t"].dense().tolist() == [0, 1, 2, 3, 4]
    assert file.tensors["u"].dense().tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("kind", ["q4_k", "q8_0"])
def test_tensors_that_were_reshaped_get_their_shape_back(kind: str, tmp_path: Path) -> None:
    """ComfyUI's quantisers lay out anew what has no whole blocks in a row."""
    path = tmp_path / "x.gguf"
    ggml = gguf.GGMLQuantizationType[kind.upper()]
    shape = (6, 8, 2, 16)
    count = 6 * 8 * 2 * 16
    if kind == "q4_k":
        raw = random_blocks(count // 256, kind, 0)
    else:
        values = np.random.default_rng(0).standard_normal((count // 256, 256)).astype(np.float32)
        raw = gguf.quants.quantize(values, ggml)
    writer = gguf.GGUFWriter(path, "mochi")
    writer.add_array("comfy.gguf.orig_shape.conv.weight", list(shape))
    writer.add_tensor("conv.weight", raw, raw_dtype=ggml)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stored = GgufFile(path).tensors["conv.weight"]
    assert stored.shape == shape
    expected = gguf.quants.dequantize(raw, ggml).reshape(shape)
    assert np.array_equal(stored.dense().numpy(), expected)


F32, Q8 = TYPE_OF["F32"], TYPE_OF["Q8_0"]
SHAPE_NOTE = "comfy.gguf.orig_shape.a"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (GOOD[:3], "no safetensors"),
        (GOOD[:10], "truncated"),
        (GOOD[:90], "truncated"),
        (GOOD[:-1], "is truncated"),
        (build([], version=1), "version 1"),
        (build([], version=0x03000000), "big-endian"),
        (build([], version=99), "version 99"),
        (build([], tensors=2**60), "announced"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "announced"),
        (build([info("a", (2,), 16, 0)], data=bytes(64)), "quantisation IQ2_XXS, which is not"),
        (build([info("a", (2,), 77, 0)], data=bytes(64)), "quantisation type 77"),
        (build([info("a", (2,), 26, 0)], data=bytes(64)), "quantisation I32"),
        (build([info("a", (33,), Q8, 0)], data=bytes(64)), "no whole q8_0 blocks"),
        (build([info("a", (), Q8, 0)], data=bytes(64)), "no whole q8_0 blocks"),
        (build([info("a", (2**41,), F32, 0)], data=bytes(64)), "shape"),
        (build([info("a", (2**40, 2**40), F32, 0)], data=bytes(64)), "truncated"),
        (build([info("a", (2,), F32, 2**63)], data=bytes(64)), "truncated"),
        (build([info("a", (2,), F32, 8)], data=bytes(64)), "not aligned"),
        (build([info("a", (2,), F32, 0)] * 2, data=bytes(64)), "twice"),
        (build([info("a", (9,), F32, 0), info("b", (2,), F32, 32)], data=bytes(64)), "overlaps"),
        (build([info("a", (1,) * 17, F32, 0)], data=bytes(64)), "17 dimensions"),
        (build([], [entry("x", 13, b"")]), "of type 13"),
        (build([], [entry("x", 4, bytes(4))] * 2), "twice"),
        (build([], [entry("x", 9, struct.pack("<IQ", 4, 2**62))]), "announced"),
        (build([], [entry("x", 9, struct.pack("<IQ", 8, 2**40))]), "announced"),
        (build([], [entry("x", 9, struct.pack("<IQ", 9, 1) * 9)]), "of type 9"),
        (build([], [entry("x", 8, struct.pack("<Q", 2**62))]), "announced"),
        (build([], [entry("general.alignment", 4, bytes(4))]), "general.alignment is 0"),
        (build([], [entry("general.alignment", 8, bytes(8))]), "general.alignment is"),
        (build([], [entry("general.alignment", 4, b"\xff" * 4)]), "general.alignment is"),
        (
            build(
                [info("a", (4,), F32, 0)],
                [entry(SHAPE_NOTE, 9, struct.pack("<IQiii", 5, 3, 2, 2, 2))],
                bytes(64),
            ),
            "says it was [2, 2, 2]",
        ),
        (
            build(
                [info("a", (4,), F32, 0)],
                [entry(SHAPE_NOTE, 9, struct.pack("<IQii", 5, 2, -2, -2))],
                bytes(64),
            ),
            "says it was [-2, -2]",
        ),
        (build([info("a", (4,), F32, 0)], [entry(SHAPE_NOTE, 4, bytes(4))], bytes(64)), "says"),
    ],
)
def test_hostile_files_are_refused_with_the_reason(raw: bytes, says: str, tmp_path: Path) -> None:
    if raw[:4] == b"GGUF":
        assert says in refusal(tmp_path / "x", raw)
    else:
        (tmp_path / "x").write_bytes(raw)
        with pytest.raises(WeightsError, match=says):
            Checkpoint.open(tmp_path / "x")


def read_all(path: Path) -> None:
    for stored in GgufFile(path).tensors.values():
        assert stored.dense().shape == stored.shape


@one_file
@given(st.binary(max_size=200))
def test_random_bytes_never_crash(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x").write_bytes(b"GGUF" + struct.pack("<I", 3) + raw)
    with suppress(WeightsError):
        read_all(tmp_path / "x")


@one_file
@given(st.data())
def test_changed_bytes_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(GOOD) - 137))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(len(GOOD) // 2, len(GOOD))) :]
    (tmp_path / "x").write_bytes(raw)
    with suppress(WeightsError):
        read_all(tmp_path / "x")


names = st.text(st.characters(codec="utf-8"), max_size=6)
lies = st.builds(
    info,
    names,
    st.lists(st.integers(0, 64) | st.integers(0, 2**64 - 1), max_size=5).map(tuple),
    st.sampled_from([*TYPES, 5, 99, 2**32 - 1]),
    st.sampled_from([0, 32, 64, 7]) | st.integers(0, 2**64 - 1),
)
values = st.one_of(
    st.builds(lambda n: (4, struct.pack("<I", n)), st.integers(0, 2**32 - 1)),
    st.builds(lambda raw: (8, struct.pack("<Q", len(raw)) + raw), st.binary(max_size=6)),
    st.builds(lambda n, raw: (9, struct.pack("<IQ", 4, n) + raw), st.integers(0, 9), st.binary()),
)
notes = st.builds(
    lambda name, value: entry(name, *value),
    names | st.sampled_from(["general.alignment", SHAPE_NOTE]),
    values,
)


@one_file
@given(st.lists(lies, max_size=3), st.lists(notes, max_size=3), st.integers(0, 300))
def test_what_is_taken_lies_inside_the_file(
    tmp_path: Path, infos: list[bytes], entries: list[bytes], data_bytes: int
) -> None:
    (tmp_path / "x").write_bytes(build(infos, entries, bytes(data_bytes)))
    with suppress(WeightsError):
        file = GgufFile(tmp_path / "x")
        assert sum(stored.nbytes for stored in file.tensors.values()) <= data_bytes
        read_all(tmp_path / "x")


def test_a_pipe_and_a_folder_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for name, says in (("folder", "is a folder"), ("pipe", "no regular file")):
        with pytest.raises(WeightsError, match=says):
            GgufFile(tmp_path / name)
