"""`finetune` from a config to a folder that generates: adapters, QLoRA, whole networks, the VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.prepared import prepared_folder
from tests.training.toy import Heard
from typer.testing import CliRunner

import mochi
from mochi.core.errors import RequestError, WeightsError
from mochi.training.config import Config
from mochi.training.events import Finished, Notice, Sampled, Saved, Started, Validated
from mochi.training.finetune import finetune
from mochi.video.reader import read_video
from mochi.video.writer import open_writer
from mochi.weights.loading import load_decoder, load_dit

PROMPT = "a red circle moves left on a black background"
SMALL = {"frames": 7, "height": 32, "width": 32, "steps": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_folder(tmp_path_factory.mktemp("prepared"))


def config_of(folder: Path, clips: Path, **sections: dict[str, Any]) -> Config:
    given: dict[str, dict[str, Any]] = {
        "data": {"path": str(clips)},
        "saving": {"folder": str(folder), "every": 2},
        "training": {"steps": 3, "batch": 2},
        "optimiser": {"warmup_steps": 0},
    }
    for name, values in sections.items():
        given[name] = {**given.get(name, {}), **values}
    return Config.of(given)


def test_an_adapter_from_a_config(data: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prior.txt"
    prompts.write_text("a blue square\n\na blue square\n", encoding="utf-8")
    config = config_of(
        tmp_path / "run",
        data,
        lora={"rank": 4, "layers": ["attention", "conditioning"]},
        optimiser={"ema": 0.9, "lr": 0.01},
        validation={"every": 2, "sigmas": [0.3, 0.8]},
        samples={"every": 2, "prompts": [PROMPT], **SMALL},
        prior={"share": 0.5, "prompts": str(prompts)},
    )
    heard = Heard()
    folder = finetune(config, device="cpu", reporters=[heard])

    kinds = [type(event) for event in heard if not isinstance(event, Notice)]
    assert kinds[:3] == [Started, Validated, Sampled]
    assert kinds[-2:] == [Saved, Finished]
    assert kinds.count(Validated) == kinds.count(Sampled) == 3
    seen = next(event for event in heard if isinstance(event, Validated))
    assert sorted(seen.losses) == [0.3, 0.8]
    assert [len(event.names) for event in heard.steps] == [2, 2, 2]
    assert {event.names[1] for event in heard.steps} == {"a blue square"}
    last = [event for event in heard if isinstance(event, Sampled)][-1]

    pipe = mochi.load("nano", loras=[folder])
    clip = pipe.generate(PROMPT, seed=0, **SMALL)
    shown = read_video(last.paths[0])
    assert np.abs(clip.frames.astype(int) - shown).mean() < 3  # the file is compressed
    plain = mochi.load("nano").generate(PROMPT, seed=0, **SMALL)
    assert (clip.frames != plain.frames).any()
    before = mochi.load("nano", loras=[(folder, 1.0)], lora_mode="merged")
    merged = before.generate(PROMPT, seed=0, **SMALL)
    assert np.abs(merged.frames.astype(int) - clip.frames).max() <= 1

    again = Heard()
    assert finetune(config, device="cpu", reporters=[again]) == folder
    assert [type(event) for event in again] == [Started, Finished]


@pytest.mark.parametrize("kind", ["fp8", "q8_0", "q4_0"])
def test_a_quantised_base(kind: str, data: Path, tmp_path: Path) -> None:
    found = []
    for quantise in ("none", kind):
        heard = Heard()
        config = config_of(
            tmp_path / quantise, data, model={"quantise": quantise}, training={"steps": 1}
        )
        finetune(config, device="cpu", reporters=[heard])
        found.append(heard.losses[0])
    assert found[1] == pytest.approx(found[0], rel=0.3)
    assert found[1] != found[0]


def test_all_weights(data: Path, tmp_path: Path) -> None:
    config = config_of(
        tmp_path, data, model={"train": "full", "dtype": "bfloat16"}, training={"steps": 1}
    )
    path = finetune(config, device="cpu")
    assert path == tmp_path / "dit.safetensors"
    trained = load_dit(path)
    assert trained.blocks[0].attn.qkv_x.weight.dtype == torch.bfloat16
    clip = mochi.load("nano", dit=path).generate(PROMPT, seed=0, **SMALL)
    assert clip.frames.shape == (7, 32, 32, 3)


def test_the_decoder(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(2):
        with open_writer(clips / f"{number}.mp4", 12, (32, 32), {}) as writer:
            writer.write(np.full((7, 32, 32, 3), 80 * number, np.uint8))
    config = config_of(
        tmp_path / "run",
        clips,
        model={"train": "decoder"},
        data={"frames": 7, "height": 32, "width": 32},
        training={"steps": 2, "batch": 1},
        optimiser={"lr": 1e-4},
    )
    heard = Heard()
    path = finetune(config, device="cpu", reporters=[heard])
    assert path == tmp_path / "run" / "decoder.safetensors"
    assert heard.steps[0].terms["psnr"] > 10
    load_decoder(path)
    with pytest.raises(RequestError, match=r"data\.path=.* holds no videos"):
        finetune(config_of(tmp_path / "b", tmp_path / "run", model={"train": "decoder"}))


def test_what_does_not_go_together(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune(config_of(run, data, training={"steps": 1}), device="cpu")
    with pytest.raises(WeightsError, match=r"optimiser\.lr was 0\.0002 and is 0\.1"):
        finetune(config_of(run, data, training={"steps": 1}, optimiser={"lr": 0.1}), device="cpu")
    with pytest.raises(RequestError, match=r"lora\.rank=5000 is more than"):
        finetune(config_of(tmp_path / "a", data, lora={"rank": 5000}), device="cpu")
    with pytest.raises(RequestError, match=r"lora\.layers='blocks\.9\.x' names no linear layer"):
        finetune(config_of(tmp_path / "a", data, lora={"layers": ["blocks.9.x"]}), device="cpu")
    blocks = {"checkpointed_blocks": 8}
    with pytest.raises(RequestError, match=r"checkpointed_blocks=8 is more than the model's 7"):
        finetune(config_of(tmp_path / "a", data, training=blocks), device="cpu")
    with pytest.raises(WeightsError, match="no prepared folder"):
        finetune(config_of(tmp_path / "a", tmp_path), device="cpu")
    other = prepared_folder(tmp_path / "other", features=64)
    with pytest.raises(RequestError, match=r"text features of width 64, .* width 96"):
        finetune(config_of(tmp_path / "a", other), device="cpu")


def test_the_command(data: Path, tmp_path: Path) -> None:
    from mochi.cli.commands import app
    from mochi.core.events import CancelToken

    path, runner = tmp_path / "a.toml", CliRunner()
    assert runner.invoke(app, ["finetune", "--init", str(path)], obj=CancelToken()).exit_code == 0
    assert "[optimiser]" in path.read_text()
    path.write_text(
        f'[data]\npath = "{data}"\n[training]\nsteps = 2\n[optimiser]\nwarmup_steps = 0\n'
    )
    planned = runner.invoke(app, ["finetune", str(path), "--plan"], obj=CancelToken())
    assert planned.exit_code == 0, planned.output
    assert "H100" in planned.output
    words = ["finetune", str(path), "--device", "cpu", "--quiet"]
    told = runner.invoke(app, words, obj=CancelToken())
    assert told.exit_code == 0, told.output
    assert (tmp_path / "run" / "adapter" / "README.md").is_file()
