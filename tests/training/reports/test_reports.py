"""What a training tells, as files: the history, the run page, TensorBoard, Weights & Biases."""

import math
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.cli.training_progress import TrainingLines, training_progress
from mochi.core.errors import MochiError
from mochi.training.events import (
    Finished,
    Notice,
    Reporter,
    Sampled,
    Started,
    StepDone,
    TrainingEvent,
    Validated,
)
from mochi.training.reports.all import file_reporters
from mochi.training.reports.history import History, read_history
from mochi.training.reports.svg import Line, chart, smooth, thinned
from mochi.video.writer import write_video

PROMPT = 'a <b>"red"</b> square & more'
SETTINGS = {"model": {"name": "nano"}, "training": {"steps": 40, "seed": 0}}


def step(number: int, loss: float | None = None, steps: int = 40) -> StepDone:
    value = 1 / number if loss is None else loss
    return StepDone(number, steps, value, 1e-3, 0.5, 0.25, 1.0, 9.0, ("a",), {"psnr": 20.0})


def tell(reporters: list[Reporter], *events: TrainingEvent) -> None:
    for event in events:
        for reporter in reporters:
            reporter(event)


def sampled(folder: Path, number: int, level: int = 90) -> Sampled:
    path = folder / "samples" / f"{number}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.full((7, 32, 48, 3), level, np.uint8), 12, overwrite=True)
    return Sampled(number, (path,), (PROMPT,), (3,))


def first_half(folder: Path) -> list[TrainingEvent]:
    began = Started(0, 40, folder, SETTINGS, {"clips": 40})
    looks = [Validated(0, {0.1: 2.0, 0.9: 1.0}, 1.5), sampled(folder, 0)]
    steps = [step(number) for number in range(1, 21)]
    return [began, *looks, *steps, Validated(20, {0.1: 1.0, 0.9: 0.5}, 0.75), sampled(folder, 20)]


class Elements(HTMLParser):
    """Everything that a page would fetch, and whether its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "rect", "line", "polyline", "circle", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_everything_and_fetches_nothing(tmp_path: Path) -> None:
    reporters = list(file_reporters())
    tell(reporters, *first_half(tmp_path), Notice("look <here>"))
    text = (tmp_path / "index.html").read_text("utf-8")
    found = Elements()
    found.feed(text)
    assert found.open == []
    assert all(it.startswith("data:image/webp;base64,") for it in found.fetched)
    assert len(found.fetched) == 2, "one sample before the first step, one after 20"
    assert found.tags.count("svg") == 5, "loss, validation, rate, norm, psnr"
    assert "<b>" not in text
    for words in ("step 20 of 40", "σ 0.1", "look &lt;here&gt;", "nano", "about 9 s left"):
        assert words in text
    assert 'http-equiv="refresh"' in text
    tell(reporters, Finished(40, tmp_path / "adapter", 10.0))
    assert 'http-equiv="refresh"' not in (tmp_path / "index.html").read_text("utf-8")
    assert (tmp_path / "grid.png").is_file()


def test_a_restart_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    """Told once to the end, and told again from step 10 after a death at 20: one story."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    tell(list(file_reporters()), *first_half(whole), *map(step, range(21, 41)))
    tell(list(file_reporters()), *first_half(broken))
    with (broken / "history.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')  # killed in the middle of a line
    again = [Started(10, 40, broken, SETTINGS), *map(step, range(11, 21))]
    again += [Validated(20, {0.1: 1.0, 0.9: 0.5}, 0.75), sampled(broken, 20)]
    history = History()
    tell([history], *again, *map(step, range(21, 41)))
    wanted, found = read_history(whole), read_history(broken)
    assert (found.steps, found.validated) == (wanted.steps, wanted.validated)
    assert history.story.steps == wanted.steps
    assert [it.step for it in found.sampled] == [0, 20]
    assert [it.step for it in found.steps] == list(range(1, 41))


def test_a_training_that_begins_anew_forgets(tmp_path: Path) -> None:
    tell([History()], *first_half(tmp_path))
    history = History()
    tell([history], *first_half(tmp_path)[:3])
    assert history.story.steps == []
    assert len(history.story.validated) == 1


def test_samples_that_are_gone_leave_a_note(tmp_path: Path) -> None:
    reporters = list(file_reporters())
    look = sampled(tmp_path, 20)
    look.paths[0].unlink()
    tell(reporters, Started(0, 40, tmp_path), step(1), look)
    assert "gone" in (tmp_path / "index.html").read_text("utf-8")


class TestCurves:
    @given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=60))
    def test_any_numbers_can_be_drawn(self, values: list[float]) -> None:
        drawn = chart("x", [Line("a", range(len(values)), values)], 60)
        assert ("<svg" in drawn) == any(map(math.isfinite, values))
        assert "nan" not in drawn.replace("name", "")

    def test_peaks_survive_thinning(self) -> None:
        points = [(float(x), 1.0) for x in range(20_000)]
        points[7777] = (7777.0, 50.0)
        kept = thinned(points)
        assert len(kept) <= 1000
        assert (7777.0, 50.0) in kept

    def test_smoothing_has_no_bias(self) -> None:
        assert smooth([3.0] * 9, 5) == pytest.approx([3.0] * 9)
        assert smooth([float("nan"), 2.0], 5)[1] == 2.0


def test_lines_on_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = TrainingLines(sys.stderr)
    tell([told], *first_half(tmp_path), step(40), Finished(40, tmp_path / "adapter", 75.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training begins: 40 steps")
    assert "step 20: validation 0.7500 (sigma 0.1: 1.0000, 0.9: 0.5000)" in lines
    assert any(line.startswith("step 40/40, loss ") and "9 s left" in line for line in lines)
    assert lines[-1].startswith("done in 1:15")
    with training_progress(quiet=True) as silent:
        silent(step(1))
    assert capsys.readouterr().err == ""


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="pip install mochi-video[tensorboard]")
    from tensorboardX.proto.event_pb2 import Event

    tell(list(file_reporters(tensorboard=True)), *first_half(tmp_path), Finished(40, tmp_path, 1.0))
    (file,) = (tmp_path / "tensorboard").glob("events*")
    raw, found = file.read_bytes(), {}
    while raw:  # TFRecord: length, its checksum, the event, its checksum
        size = int.from_bytes(raw[:8], "little")
        event = Event.FromString(raw[12 : 12 + size])
        raw = raw[16 + size :]
        found |= {(value.tag, event.step): value for value in event.summary.value}
    assert found["train/loss", 20].simple_value == pytest.approx(1 / 20)
    assert found["validation/sigma_0.9", 20].simple_value == pytest.approx(0.5)
    assert found["samples/0", 20].image.width == 48


def test_weights_and_biases_offline(tmp_path: Path) -> None:
    """In a process of its own: it leaves threads behind, and writes to the home folder."""
    pytest.importorskip("wandb", reason="pip install mochi-video[wandb]")
    code = (
        "from pathlib import Path\n"
        "from mochi.training.events import Finished, Started, StepDone\n"
        "from mochi.training.reports.others import WeightsAndBiases\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "told = WeightsAndBiases('mochi-test', 'offline')\n"
        "told(Started(0, 2, folder, {'model': {'name': 'nano'}}))\n"
        "told(StepDone(1, 2, 0.5, 1e-3, 1.0, 0.1, 0.1, 0.1))\n"
        "told(Finished(2, folder, 1.0))\n"
    )
    home = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **home}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_what_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, extra in (("tensorboardX", "tensorboard"), ("wandb", "wandb")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MochiError, match=rf"pip install mochi-video\[{extra}\]"):
            file_reporters(
                tensorboard=extra == "tensorboard", wandb="x" if extra == "wandb" else None
            )
