"""On a CPU that does not multiply in bfloat16 a model stored so computes in float32."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.pipeline.conftest import copied_in_bfloat16

import mochi
from mochi.core.events import Event, Notice
from mochi.pipeline.devices import multiplies_in_bfloat16, slow_dtype_note

SETTINGS = {"frames": 7, "height": 32, "width": 32, "steps": 2, "seed": 3}


@pytest.fixture
def stored_small(tiny_model: Path, tmp_path: Path) -> Path:
    return copied_in_bfloat16(tiny_model, tmp_path / "small")


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mochi.pipeline.devices.multiplies_in_bfloat16", lambda: False)


def made(model: Path, dtype: str) -> tuple[np.ndarray, list[str]]:
    told: list[Event] = []
    pipe = mochi.load(model, device="cpu", dtype=dtype, on_event=told.append)
    frames = pipe.generate("a red circle", **SETTINGS).frames
    return frames, [it.message for it in told if isinstance(it, Notice)]


@pytest.mark.usefixtures("older")
def test_it_computes_in_float32_and_says_so(stored_small: Path) -> None:
    plain, told = made(stored_small, "float32")
    assert not any("bfloat16:" in line or "multiply" in line for line in told)
    found, told = made(stored_small, "auto")
    assert np.array_equal(found, plain)
    assert "computing in float32: this processor does not multiply in bfloat16" in told
    _, told = made(stored_small, "bfloat16")
    assert "this processor does not multiply in bfloat16: --dtype float32 is faster" in told


def test_elsewhere_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for able in (True, False):
        monkeypatch.setattr("mochi.pipeline.devices.multiplies_in_bfloat16", lambda able=able: able)
        assert not slow_dtype_note(None, cuda, "bfloat16")
        assert not slow_dtype_note(None, cpu, "float32")
        assert bool(slow_dtype_note(torch.bfloat16, cpu, "q8_0")) is not able


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="is about x86")
def test_it_is_the_processor_that_is_asked() -> None:
    """oneDNN can be held to what an older one has; the limit is read once in a process."""
    program = "from mochi.pipeline.devices import *; print(multiplies_in_bfloat16())"
    found = {}
    for most in ("AVX2", "DEFAULT"):
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": most}
        words = [sys.executable, "-c", program]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        found[most] = done.stdout.strip()
    assert found == {"AVX2": "False", "DEFAULT": str(multiplies_in_bfloat16())}
