"""`--memory`, plans, and what is kept when the memory runs out, on the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.conftest import Mochi

from mochi.cli import rates as cli_rates
from mochi.memory import rates as memory_rates
from mochi.memory.modes import MODES
from mochi.memory.rates import Rates
from mochi.model.decoder import Decoder

PROMPT = "a red circle moves left on a black background"
RATES = Rates(linear=1e9, attention=1e9, convolution=1e9, copy=1e9, disk=1e9)


@pytest.fixture(autouse=True)
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """A cache of its own, and measurements that take no time; gives those that were made."""
    made: list[torch.dtype] = []

    def measure(device: torch.device, dtype: torch.dtype, file: Path) -> Rates:
        assert file.is_file()
        made.append(dtype)
        return RATES

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(memory_rates, "measure_rates", measure)
    return made


def test_the_mode_is_said_and_the_video_is_the_same(
    mochi: Mochi, tiny_model: Path, here: Path
) -> None:
    videos = []
    for mode in ("auto", "high", "minimal"):
        words = ("--model", tiny_model, "--seed", 0, "--memory", mode, "-o", f"{mode}.gif")
        done = mochi("generate", PROMPT, *words)
        assert done.code == 0, done.err
        assert f"memory: {'high' if mode == 'auto' else mode}" in done.err
        videos.append((here / f"{mode}.gif").read_bytes())
    assert videos[0] == videos[1] == videos[2]


def test_an_unknown_mode_is_refused_before_anything_is_loaded(mochi: Mochi, here: Path) -> None:
    done = mochi("generate", PROMPT, "--memory", "huge", "-o", "a.mp4", "--model", here / "none")
    assert done.code == 2
    assert "memory='huge' is unknown" in done.err
    assert "auto, high, balanced, low, minimal" in done.err
    assert done.err.count("\n") == 1


def test_finished_latents_are_kept_where_decoding_fails(
    mochi: Mochi, tiny_model: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--model", tiny_model, "--seed", 0)
    assert mochi("generate", PROMPT, *words, "-o", "expected.gif").code == 0

    def stream(self: Decoder, *args: Any, **kwargs: Any) -> Iterator[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "stream", stream)
        done = mochi("generate", PROMPT, *words, "-o", "a.gif")
    assert done.code == 1
    assert "once more with --memory balanced" in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("mochi: error: out of memory in the decode phase")
    assert "--latents a.gif.latents.safetensors" in last
    assert not (here / "a.gif").exists()
    again = mochi(
        "generate", PROMPT, *words, "--latents", "a.gif.latents.safetensors", "-o", "a.gif"
    )
    assert again.code == 0, again.err
    frames = [mochi("show", name, "--json").code for name in ("a.gif", "expected.gif")]
    assert frames == [0, 0]


def test_a_plan_is_a_table_of_every_mode(
    mochi: Mochi, tiny_model: Path, measured: list[torch.dtype]
) -> None:
    done = mochi("doctor", "--plan", "--model", tiny_model, "--frames", 25, "--device", "cpu")
    assert done.code == 0, done.err
    assert "32x32, 25 frames on cpu" in done.out
    for word in (*MODES, "text", "denoise", "decode", "working", "at most"):
        assert word in done.out
    assert done.out.splitlines()[-1].startswith("auto     high; at most")
    assert measured == [torch.float32]


def test_a_plan_as_json(mochi: Mochi, tiny_model: Path) -> None:
    done = mochi("doctor", "--plan", "--json", "--model", tiny_model, "--steps", 3)
    plans = json.loads(done.out)["plans"][str(tiny_model)]
    assert list(plans) == ["auto", *MODES]
    assert plans["low"]["stages"][1]["mode"] == "low"
    assert plans["low"]["seconds"] > 0
    bad = mochi("doctor", "--plan", "--frames", 24)
    assert bad.code == 2
    assert "25" in bad.err


def test_rates_are_measured_once_and_again_when_they_are_spoilt(
    tmp_path: Path, measured: list[torch.dtype]
) -> None:
    cpu, file = torch.device("cpu"), tmp_path / "weights"
    file.touch()
    for _ in range(2):
        found = cli_rates.rates(cpu, [torch.float32, torch.bfloat16], file)
        assert found == {"torch.float32": RATES, "torch.bfloat16": RATES}
    assert measured == [torch.float32, torch.bfloat16]
    path = cli_rates.cache_folder() / "rates.json"
    for spoilt in ("", "[]", "{", '{"a": 1}', path.read_text().replace("linear", "lines")):
        path.write_text(spoilt)
        measured.clear()
        assert cli_rates.rates(cpu, [torch.float32], file) == {"torch.float32": RATES}
        assert measured == [torch.float32]


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[torch.dtype]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cli_rates.rates(torch.device("cpu"), [torch.float32], tmp_path / "file")
    assert measured == [torch.float32]
