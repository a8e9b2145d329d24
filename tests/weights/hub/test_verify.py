"""What `verify` says about files that are right, changed, missing or of the wrong shape."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi.core.errors import WeightsError
from mochi.weights.hub import download
from mochi.weights.verify import Finding, verify


@pytest.fixture
def model(hub: Any, original: Path, tmp_path: Path) -> Path:
    """A model of the right shapes, downloaded."""
    hub.files = {path.name: path.read_bytes() for path in original.iterdir()}
    hub.files["README.md"] = b"text"
    return download("owner/model", tmp_path / "model", endpoint=hub.endpoint, token=False)


def bad(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(finding.name, finding.detail) for finding in findings if not finding.ok]


def test_a_good_model(model: Path):
    told: list[tuple[str, int, int]] = []
    findings = verify(model, lambda *words: told.append(words))
    assert not bad(findings)
    assert {finding.name for finding in findings if finding.kind == "shapes"} == {
        "dit",
        "decoder",
        "encoder",
    }
    assert len(findings) == 7
    assert told[-1][1] == told[-1][2]


def test_a_changed_byte_is_found(model: Path):
    path = model / "decoder.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert bad(verify(model)) == [("decoder.safetensors", "has changed since it was downloaded")]


def test_a_missing_file_is_found(model: Path):
    (model / "README.md").unlink()
    (model / "encoder.safetensors").unlink()
    assert bad(verify(model)) == [
        ("README.md", "is missing"),
        ("encoder.safetensors", "is missing"),
    ]


def test_wrong_shapes_and_truncation_are_found_without_a_record(original: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(original, folder)
    state = load_file(folder / "dit.safetensors")
    state["t5_yproj.bias"] = torch.zeros(2)
    save_file(state, folder / "dit.safetensors")
    whole = (folder / "decoder.safetensors").read_bytes()
    (folder / "decoder.safetensors").write_bytes(whole[:-100])
    (dit, shapes), (decoder, reason) = bad(verify(folder))
    assert (dit, decoder) == ("dit", "decoder")
    assert "t5_yproj.bias (2,), not (24,)" in shapes
    assert "is truncated" in reason


def test_no_model_is_an_error(tmp_path: Path):
    with pytest.raises(WeightsError, match="holds no model"):
        verify(tmp_path)
