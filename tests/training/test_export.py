"""An adapter's folder: three flavours of the same numbers, and a card that says what they are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mochi
from mochi.core.errors import OutputError, RequestError
from mochi.model.adapters import Factors
from mochi.pipeline.pipeline import Pipeline
from mochi.training.export import DIFFUSERS_NAME, Card, Shown, export_adapter
from mochi.weights.lora import Lora
from mochi.weights.lora_read import layer_sizes, read_lora

PROMPT = "a red circle moves left on a white background"
FILES = ("mine.safetensors", "mine-comfyui.safetensors", DIFFUSERS_NAME)


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return mochi.load(tiny_model, dtype="float32")


@pytest.fixture(scope="module")
def trained(pipe: Pipeline) -> Lora:
    """What a training of all attention layers may end with: alpha is not the rank, nor a power of
    two of it."""
    random = torch.Generator().manual_seed(0)
    layers = {}
    for name, (inputs, outputs) in layer_sizes(pipe.parts.dit()).items():
        if ".attn." in name:
            a = torch.randn(4, inputs, generator=random)
            b = 0.3 * torch.randn(outputs, 4, generator=random)
            layers[name] = [Factors(a, b, 6 / 4)]
    return Lora.of_factors(layers)


@pytest.fixture
def card(tmp_path: Path) -> Card:
    video = tmp_path / "sample.mp4"
    video.write_bytes(b"a video")
    settings = {"lora": {"rank": 4, "alpha": 6.0}, "data": {"path": str(tmp_path / "clips")}}
    return Card(
        base="owner/base",
        base_sha256="f" * 64,
        steps=20,
        data={"samples": 40, "seconds of video": 83.5},
        settings=settings,
        results={"loss": 0.123456789},
        samples=[Shown(video, 'a | "pipe" & <tag>', 7)],
        trigger="a `red` $HOME thing",
    )


def test_live_merged_and_each_flavour_give_the_same_frames(
    pipe: Pipeline, trained: Lora, card: Card, tmp_path: Path
) -> None:
    folder = export_adapter(trained, tmp_path / "out", card, name="mine")
    plain = pipe.generate(PROMPT, seed=0).frames.astype(int)
    frames = {}
    for source in (*(folder / name for name in FILES), folder):
        for mode in ("live", "merged"):
            pipe.add_lora(source, mode=mode)
            frames[source.name, mode] = pipe.generate(PROMPT, seed=0).frames.astype(int)
            pipe.clear_loras()
    first = frames["mine.safetensors", "live"]
    assert np.abs(first - plain).max() > 5, "it changes what is seen"
    for (name, mode), found in frames.items():
        assert np.abs(found - first).max() <= 1, f"{name} {mode}"


def test_the_files_hold_the_numbers_bit_for_bit(trained: Lora, card: Card, tmp_path: Path) -> None:
    folder = export_adapter(trained, tmp_path / "out", card, name="mine")
    for name in FILES[:2]:
        found = read_lora(folder / name)
        for layer, pairs in trained.layers.items():
            assert torch.equal(found.layers[layer][0].a, pairs[0].a)
            assert torch.equal(found.layers[layer][0].b, pairs[0].b)
            assert found.layers[layer][0].scale == pairs[0].scale
    assert read_lora(folder).flavour == "diffusers"


def test_the_card(trained: Lora, card: Card, tmp_path: Path) -> None:
    folder = export_adapter(trained, tmp_path / "out", card, name="mine")
    text = (folder / "README.md").read_text("utf-8")
    assert text.startswith('---\nbase_model: "owner/base"\n')
    for words in ("rank 4, alpha 6", "trained for 20 steps", "seconds of video | 83.5", "0.123457"):
        assert words in text
    assert r'a \| "pipe" & &lt;tag>' in text
    assert r'mochi generate "a red \$HOME thing" --lora FOLDER' in text
    assert (folder / "samples" / "00.mp4").read_bytes() == b"a video"
    assert '"rank": 4' in text
    assert '"path": "clips"' in text
    assert str(tmp_path) not in text


def test_all_of_it_or_nothing(trained: Lora, card: Card, tmp_path: Path) -> None:
    folder = export_adapter(trained, tmp_path / "out", card, name="mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    card.samples[0].path.unlink()
    with pytest.raises((OutputError, OSError)):
        export_adapter(trained, folder, card, name="mine")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    with pytest.raises(OutputError, match="exists"):
        export_adapter(trained, folder, Card("b", "f", 1), name="mine", overwrite=False)
    with pytest.raises(RequestError, match="has signs"):
        export_adapter(trained, folder, card, name="../mine")
    shutil.rmtree(folder)
