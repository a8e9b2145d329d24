"""weights convert, weights inspect, weights verify: what is printed, exit codes, interruption."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi.cli.byte_progress import byte_size
from mochi.cli.interrupt import Interrupt

TARGETS = [
    ("original", []),
    ("original", ["--quantize", "q8_0"]),
    ("diffusers", ["--shard-gb", "0.0002"]),
    ("comfy", ["--quantize", "fp8", "--marking", "new"]),
    ("comfy", ["--all-in-one", "--dtype", "bfloat16"]),
    ("gguf", ["--quantize", "q4_0", "--dtype", "bfloat16"]),
]


@pytest.mark.parametrize(("layout", "words"), TARGETS)
def test_what_is_converted_is_whole(mochi, tiny_model: Path, here: Path, layout, words) -> None:  # type: ignore[no-untyped-def]
    done = mochi("weights", "convert", tiny_model, "new", "--to", layout, *words)
    assert done.code == 0
    assert done.out == "new\n"
    assert f"{tiny_model}" in done.err
    assert " files, " in done.err
    checked = mochi("weights", "verify", "new", "--json")
    assert checked.code == 0, checked.out
    assert {finding["name"] for finding in json.loads(checked.out)} >= {"dit", "decoder"}
    assert mochi("weights", "inspect", "new").code == 0


def test_the_result_as_json(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("convert", tiny_model, "a/b.gguf", "--to", "gguf", "--parts", "dit", "--json")
    done = mochi("weights", *words)
    assert done.code == 0
    assert done.err == ""
    result = json.loads(done.out)
    assert result["folder"] == "a"
    assert result["files"] == {"b.gguf": (here / "a" / "b.gguf").stat().st_size}


def test_what_exists_stays_without_overwrite(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("weights", "convert", tiny_model, "new", "--to", "original", "-q")
    assert mochi(*words).code == 0
    done = mochi(*words)
    assert done.code == 1
    assert "exists; --overwrite replaces it" in done.err
    assert mochi(*words, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "onnx"], "to='onnx' is unknown"),
        (["--to", "comfy", "--dtype", "half"], "dtype='half' is unknown"),
        (["--to", "comfy", "--parts", "dit,vae"], "parts='vae' is unknown"),
        (["--to", "diffusers", "--quantize", "fp8"], "quantize='fp8' is not possible"),
        (["--to", "diffusers", "--shard-gb", "0"], "shard_bytes=0 holds nothing"),
    ],
)
def test_bad_words_end_with_2_and_leave_nothing(  # type: ignore[no-untyped-def]
    mochi, tiny_model: Path, here: Path, words: list[str], message: str
) -> None:
    done = mochi("weights", "convert", tiny_model, "new", *words)
    assert done.code == 2
    assert message in done.err
    assert list(here.iterdir()) == []


def test_interrupted_it_leaves_nothing(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    interrupt = Interrupt()
    interrupt.token.cancel()
    done = mochi("weights", "convert", tiny_model, "a/new", "--to", "comfy", interrupt=interrupt)
    assert done.code == 130
    assert list(here.iterdir()) == []


def test_inspect_shows_what_is_there(mochi, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    done = mochi("weights", "inspect", tiny_model / "dit.safetensors")
    assert done.code == 0
    first, second, third, sizes, *_ = done.out.splitlines()
    assert first == f"{tiny_model / 'dit.safetensors'}: original, float32: dit"
    assert second.startswith("  dit: ")
    assert "parameters" in second
    assert third.startswith("    float32: ")
    assert "depth " in sizes


def test_inspect_of_a_broken_file_ends_with_1(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    state = load_file(tiny_model / "dit.safetensors")
    state["t5_yproj.bias"] = torch.full_like(state["t5_yproj.bias"], torch.nan)
    for index in range(30):
        state[f"strange.{index}"] = torch.arange(2.0)
    save_file(state, here / "bad.safetensors", {"note": "a\x1b[31mred\nline"})
    done = mochi("weights", "inspect", "bad.safetensors")
    assert done.code == 1
    assert "\x1b" not in done.out
    assert done.out.count("BAD  strange.") == 20
    assert "more, 11 of them broken; --json has all" in done.out
    found = json.loads(mochi("weights", "inspect", "bad.safetensors", "--json").out)
    assert found["is_broken"]
    oddities = found["parts"][0]["oddities"]
    assert sum(oddity["is_broken"] for oddity in oddities) == 31
    assert [o["name"] for o in oddities if o["what"] == "NaN or infinity"] == ["t5_yproj.bias"]


def test_inspect_of_a_folder_names_its_broken_files(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    import shutil

    shutil.copytree(tiny_model, here / "model")
    encoder = here / "model" / "encoder.safetensors"
    encoder.write_bytes(encoder.read_bytes()[:-10])
    done = mochi("weights", "inspect", "model")
    assert done.code == 1
    assert "BAD  model/encoder.safetensors: is truncated" in done.out
    assert "dit: " in done.out


def test_inspect_and_verify_of_nothing(mochi, here: Path) -> None:  # type: ignore[no-untyped-def]
    save_file({"a": torch.ones(2)}, here / "other.safetensors")
    done = mochi("weights", "inspect", "other.safetensors")
    assert done.code == 1
    assert "belong to no part of Mochi: a" in done.out
    assert mochi("weights", "verify", "other.safetensors").code == 1
    for command in ("inspect", "verify"):
        done = mochi("weights", command, "nowhere")
        assert done.code == 2
        assert "nor a name on the hub" in done.err


def test_verify_of_a_file(mochi, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    done = mochi("weights", "verify", tiny_model / "decoder.safetensors")
    assert done.code == 0
    assert done.out.startswith("ok   decoder  shapes: ")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1_500, "1.5 kB"), (40_100_000_000, "40.1 GB")],
)
def test_sizes_to_read(count: int, text: str) -> None:
    assert byte_size(count) == text
