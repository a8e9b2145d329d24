"""Checkpoints with lies in them: one WeightsError, or something that reads as it says."""

import json
import struct
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from tests.weights.conftest import randomised
from tests.weights.marked import fp8_scaled, in_safetensors

from mochi.core.config import DiTConfig
from mochi.core.errors import WeightsError
from mochi.model.dit import AsymmDiT
from mochi.weights.checkpoint import Checkpoint
from mochi.weights.folder import ModelFiles
from mochi.weights.loading import load_dit

quick = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40
)
TINY = DiTConfig(depth=1, heads=1, head_dim=32, visual_width=32, text_width=32, text_features=32)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    with torch.device("meta"):
        network = AsymmDiT(TINY)
    state = randomised(network)
    marked = {
        "plain": (state, None),
        "old": (fp8_scaled(state, "old").tensors, None),
        "new": (fp8_scaled(state, "new").tensors, None),
        "metadata": (
            fp8_scaled(state, "metadata").tensors, fp8_scaled(state, "metadata").metadata,
        ),
        "blocks": (in_safetensors(state, "q4_0").tensors, None),
    }  # fmt: skip
    return {name: save(tensors, metadata) for name, (tensors, metadata) in marked.items()}


def opens_or_refuses(path: Path) -> None:
    """Whatever is in the file: it loads, or there is one error that names the file."""
    said = ""
    try:
        load_dit(path)
    except WeightsError as error:
        said = str(error)
    assert not said or str(path) in said
    with suppress(WeightsError):
        for stored in Checkpoint.open(path).tensors.values():
            assert stored.load(False).shape == stored.shape


@quick
@given(st.data())
def test_changed_bytes_in_headers(files: dict[str, bytes], tmp_path: Path, data: st.DataObject):
    raw = bytearray(files[data.draw(st.sampled_from(sorted(files)))])
    header_end = 8 + struct.unpack("<Q", raw[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x").write_bytes(raw)
    opens_or_refuses(tmp_path / "x")


@quick
@given(st.data())
def test_headers_that_say_other_things(
    files: dict[str, bytes], tmp_path: Path, data: st.DataObject
):
    """Names change places, shapes change form, dtypes of the same size change."""
    raw = files[data.draw(st.sampled_from(sorted(files)))]
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    for _ in range(data.draw(st.integers(1, 4))):
        one, two = (data.draw(st.sampled_from(names)) for _ in range(2))
        match data.draw(st.sampled_from(["swap", "shape", "dtype", "rename"])):
            case "swap":
                header[one], header[two] = header[two], header[one]
            case "shape":
                header[one]["shape"] = list(reversed(header[one]["shape"])) + [1]
            case "dtype":
                other = {"F32": "I32", "F8_E4M3": "U8", "U8": "F8_E5M2", "BF16": "F16"}
                header[one]["dtype"] = other.get(header[one]["dtype"], "I8")
            case "rename":
                new = data.draw(
                    st.sampled_from(
                        ["scaled_fp8", f"{one}.comfy_quant", f"{one}_qweight", "a.Q4_0_qweight",
                         one.replace("weight", "scale_weight"), "shared.weight", "layers.0.weight"]
                    )
                )  # fmt: skip
                header.setdefault(new, header[one])
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    opens_or_refuses(tmp_path / "x")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
config = st.fixed_dictionaries(
    {}, optional={"format": st.sampled_from(["float8_e4m3fn", "float8_e5m2", "x"]) | anything}
)


@quick
@given(config | anything, st.sampled_from(["layer", "metadata"]))
def test_configurations_of_layers(tmp_path: Path, files: dict[str, bytes], said: object, how: str):
    from safetensors.torch import load

    tensors = load(files["new" if how == "layer" else "metadata"])
    text = json.dumps(said)
    metadata = None
    if how == "layer":
        raw = torch.tensor(list(text.encode()), dtype=torch.uint8)
        tensors["blocks.0.attn.qkv_x.comfy_quant"] = raw
    else:
        layers = {"layers": {"blocks.0.attn.qkv_x": said}}
        metadata = {"_quantization_metadata": json.dumps(layers)}
    (tmp_path / "x").write_bytes(save(tensors, metadata))
    opens_or_refuses(tmp_path / "x")


weight_map = st.dictionaries(
    st.text(max_size=4),
    st.sampled_from(["a.safetensors", "../a.safetensors", "", "/", "b", "a/../a"]) | anything,
    max_size=3,
)


@quick
@given(st.fixed_dictionaries({"weight_map": weight_map | anything}) | anything)
def test_indices(tmp_path: Path, files: dict[str, bytes], said: object):
    (tmp_path / "a.safetensors").write_bytes(files["plain"])
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps(said))
    with suppress(WeightsError):
        load_dit(index)
    with suppress(WeightsError):
        ModelFiles.find(tmp_path)


@pytest.mark.parametrize("kind", ["plain", "old", "blocks"])
def test_truncation_anywhere(files: dict[str, bytes], tmp_path: Path, kind: str):
    raw = files[kind]
    for end in (0, 1, 7, 8, 9, 100, len(raw) // 2, len(raw) - 1):
        (tmp_path / "x").write_bytes(raw[:end])
        with pytest.raises(WeightsError):
            load_dit(tmp_path / "x")
