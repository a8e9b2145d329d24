"""A file is refused in one line, or it is a safetensors file that others read alike."""

import json
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save

from mochi.core.errors import WeightsError
from mochi.weights.header import DTYPES, read_header
from mochi.weights.tensors import TensorFile

GOOD = save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)})


def build(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refusal(raw: bytes) -> str:
    with pytest.raises(WeightsError) as caught:
        read_header(BytesIO(raw), len(raw))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_file_says_where_its_tensors_are():
    header = read_header(BytesIO(GOOD), len(GOOD))
    a = header.tensors["a"]
    assert (a.dtype, a.shape) == (torch.float32, (2, 3))
    assert torch.frombuffer(bytearray(GOOD[a.start : a.end]), dtype=a.dtype).tolist() == [
        0, 1, 2, 3, 4, 5,
    ]  # fmt: skip


@pytest.mark.parametrize("magic", [b"\x80\x02", b"\x1f\x8b"])
def test_a_header_size_may_look_like_another_format(magic: bytes):
    size = int.from_bytes(magic, "little")
    raw = build(json.dumps({"a": entry()}).encode().ljust(size), bytes(8))
    assert raw.startswith(magic)
    assert list(read_header(BytesIO(raw), len(raw)).tensors) == ["a"]


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_dtype_is_the_one_others_mean(name: str):
    dtype = DTYPES[name]
    raw = build({"x": entry(name, [3], [0, 3 * dtype.itemsize])}, bytes(3 * dtype.itemsize))
    assert load(raw)["x"].dtype == dtype
    assert read_header(BytesIO(raw), len(raw)).tensors["x"].dtype == dtype


def test_metadata_arrives():
    raw = save({"a": torch.zeros(1)}, metadata={"kwargs": "{}"})
    assert read_header(BytesIO(raw), len(raw)).metadata == {"kwargs": "{}"}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "empty"),
        (b"abc", "no safetensors"),
        (b"PK\x03\x04" + bytes(40), "zip archive"),
        (b"GGUF" + bytes(range(1, 60)), "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (GOOD[:-1], "truncated"),
        (GOOD[:20], "truncated"),
        (GOOD + b"x", "belong to no tensor"),
        (build(b"{not json}"), "no JSON"),
        (build(b"\xff\xfe{}"), "no JSON"),
        (build(b"[1, 2]"), "no JSON object"),
        (build(b'{"a": NaN}'), "no JSON"),
        (build(b"[" * 100_000), "no JSON"),
        (build(b'{"a": 1, "a": 2}'), "twice"),
        (build({"a": 3}), "no description"),
        (build({"a": entry("F31")}, bytes(8)), "unknown dtype 'F31'"),
        (build({"a": entry(shape=[-2])}, bytes(8)), "shape"),
        (build({"a": entry(shape=[2.0])}, bytes(8)), "shape"),
        (build({"a": entry(shape=[True, 2])}, bytes(8)), "shape"),
        (build({"a": entry(shape=[1] * 99)}, bytes(8)), "shape"),
        (build({"a": entry(shape=[0, 2**70], offsets=[0, 0])}), "shape"),
        (build({"a": entry(shape=None)}, bytes(8)), "shape"),
        (build({"a": entry(offsets=[8, 0])}, bytes(8)), "data_offsets"),
        (build({"a": entry(offsets=[0, 4])}, bytes(4)), "needs 8 bytes"),
        (build({"a": entry(shape=[2**39, 2**39])}, bytes(8)), "needs"),
        (build({"a": entry(offsets=[8, 16])}, bytes(16)), "gap"),
        (build({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)), "overlaps"),
        (build({"a": entry(), "b": entry()}, bytes(8)), "overlaps"),
        (build({"__metadata__": {"a": 1}}), "__metadata__"),
        (build({"__metadata__": []}), "__metadata__"),
    ],
)
def test_hostile_files_are_refused_with_the_reason(raw: bytes, says: str):
    assert says in refusal(raw)


@given(st.binary(max_size=200))
def test_random_bytes_never_crash(raw: bytes):
    with suppress(WeightsError):
        read_header(BytesIO(raw), len(raw))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BF16", "BOOL", "F4"]) | json_values,
        "shape": st.lists(st.integers(0, 3), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(0, 12), min_size=2, max_size=2) | json_values,
    }
)


@given(st.dictionaries(st.text(max_size=3), entries | json_values, max_size=3), st.integers(0, 24))
def test_what_we_take_others_take_and_read_alike(header: dict[str, object], data_bytes: int):
    raw = build(header, bytes(range(data_bytes)))
    try:
        ours = read_header(BytesIO(raw), len(raw))
    except WeightsError:
        return
    theirs = load(raw)
    assert {n: (i.dtype, i.shape) for n, i in ours.tensors.items()} == {
        n: (t.dtype, tuple(t.shape)) for n, t in theirs.items()
    }
    for name, info in ours.tensors.items():
        assert (
            raw[info.start : info.end]
            == theirs[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )


@given(st.data())
def test_a_changed_byte_in_the_header_never_crashes(data: st.DataObject):
    raw = bytearray(GOOD)
    place = data.draw(st.integers(0, len(GOOD) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    try:
        read_header(BytesIO(bytes(raw)), len(raw))
    except WeightsError:
        return
    try:
        load(bytes(raw))
    except SafetensorError as error:  # pragma: no cover - a difference to look at
        pytest.fail(f"we take what others refuse: {error}")


def test_the_path_is_in_the_message(tmp_path: Path):
    path = tmp_path / "dit.safetensors"
    path.write_bytes(GOOD[:-1])
    with pytest.raises(WeightsError, match=r"dit\.safetensors: is truncated") as caught:
        TensorFile(path)
    assert caught.value.path == path
