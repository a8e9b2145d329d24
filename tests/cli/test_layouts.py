"""`--model` and its parts on the command line: files of any layout, announced in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.weights.marked import fp8_scaled

PROMPT = "a red circle"
SIZE = ("--frames", 1, "--height", 32, "--width", 32, "--steps", 1, "--seed", 0)


@pytest.fixture
def parts(tiny_model: Path, here: Path) -> tuple[str, ...]:
    """A transformer in fp8, a VAE and a text encoder, each in a place of its own."""
    fp8_scaled(load_file(tiny_model / "dit.safetensors"), "old").save(here / "dit")
    (here / "vae").mkdir()
    for part in ("decoder", "encoder"):
        save_file(load_file(tiny_model / f"{part}.safetensors"), here / "vae" / f"{part} file")
    save_file(load_file(tiny_model / "text_encoder" / "model.safetensors"), here / "t5")
    return (
        "--dit", "dit", "--vae", "vae", "--text-encoder", "t5",
        "--tokenizer", str(tiny_model / "tokenizer"),
    )  # fmt: skip


def test_parts_one_by_one(mochi: Callable, parts: tuple[str, ...], here: Path) -> None:  # type: ignore[type-arg]
    for more in ((), ("--dequantize",)):
        name = f"{len(more)}.gif"
        found = mochi("generate", PROMPT, *SIZE, *parts, *more, "--output", name)
        assert found.code == 0, found.err
        assert "dit in dit (original, fp8_scaled (old marking))" in found.err
        assert (here / name).is_file()
    assert (here / "0.gif").read_bytes()[-200:] == (here / "1.gif").read_bytes()[-200:]


def test_a_folder_that_lacks_a_part_says_what_to_name(
    mochi: Callable,  # type: ignore[type-arg]
    parts: tuple[str, ...],
    here: Path,
) -> None:
    found = mochi("generate", PROMPT, *SIZE, "--model", "dit")
    assert "decoder in vae/decoder file" in found.err  # beside it; the tokenizer is not
    assert "holds no folder tokenizer; name that of T5 v1.1 XXL with --tokenizer" in found.err
    (here / "elsewhere").mkdir()
    (here / "dit").rename(here / "elsewhere" / "dit")
    found = mochi("generate", PROMPT, *SIZE, "--model", "elsewhere/dit")
    assert found.code == 1
    assert "holds no Mochi decoder beside dit; name a file with --vae" in found.err


@pytest.mark.parametrize("option", ["--dit", "--vae", "--text-encoder", "--tokenizer"])
def test_a_part_that_is_nowhere(
    mochi: Callable,  # type: ignore[type-arg]
    tiny_model: Path,
    option: str,
) -> None:
    found = mochi("generate", PROMPT, "--model", tiny_model, option, "./nowhere")
    assert found.code == 2
    assert option.removeprefix("--").replace("-", "_") in found.err
    assert found.err.count("\n") == 1


def test_code_in_a_checkpoint_is_named(mochi: Callable, here: Path) -> None:  # type: ignore[type-arg]
    torch.save(torch.nn.Linear(2, 2), here / "model.ckpt")
    found = mochi("generate", PROMPT, "--model", "model.ckpt")
    assert found.code == 1
    assert "would run code when opened: it calls torch.nn.modules.linear.Linear" in found.err


def test_help_says_what_a_model_may_be(mochi: Callable) -> None:  # type: ignore[type-arg]
    text = " ".join(mochi("generate", "--help").out.split())
    for word in ("--model", "ComfyUI", ".gguf", "owner/name", "--dit", "--vae", "--dequantize"):
        assert word in text
