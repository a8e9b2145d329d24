"""show, reconstruct, doctor, weights, help, and how fast it answers."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer

import mochi as package
from mochi.cli import progress as progress_module
from mochi.cli.commands import app
from mochi.cli.progress import Lines, clock, progress
from mochi.cli.say import say_warnings
from mochi.core.events import FramesDone, Notice, PhaseEnded, PhaseStarted, StepDone
from mochi.video.reader import read_video
from mochi.video.writer import write_video

PROMPT = "a red circle moves left on a black background"


def all_commands() -> list[list[str]]:
    """Every command's words."""
    found, todo = [], [([], typer.main.get_command(app))]
    while todo:
        words, command = todo.pop()
        children = getattr(command, "commands", {})
        todo += [([*words, name], child) for name, child in children.items()]
        found.append(words)
    return sorted(found)


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(mochi, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    done = mochi(*words, "--help")
    assert done.code == 0
    assert done.err == ""
    if words != ["weights"] and words != ["eval"]:
        assert f"mochi {' '.join(words)}".strip() in done.out.replace("\n", " ")
        assert "Example" in done.out


def test_no_command_is_help(mochi) -> None:  # type: ignore[no-untyped-def]
    done = mochi()
    assert "generate" in done.out + done.err
    assert "Traceback" not in done.err


def test_the_version(mochi) -> None:  # type: ignore[no-untyped-def]
    assert mochi("--version").out == f"mochi {package.__version__}\n"


def test_help_answers_at_once() -> None:
    """Under half a second of work; the wall clock of a busy machine is no measure. Where typer's
    help of one command takes long by itself, three times that."""
    best, usual = (
        min(_seconds_of_work(*words) for _ in range(3))
        for words in (("-m", "mochi", "--help"), ("-c", ONE_COMMAND, "--help"))
    )
    assert best < max(0.5, 3 * usual)


ONE_COMMAND = "import typer; app = typer.Typer(); app.command()(lambda: None); app()"


def _seconds_of_work(*words: str) -> float:
    before = os.times()
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=True)
    after = os.times()
    return (
        after.children_user
        + after.children_system
        - before.children_user
        - (before.children_system)
    )


# -------------------------------------------------------------------------------------------- show


def test_show_prints_the_request(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    mochi("generate", PROMPT, "--seed", 3, "-o", "a.webm", "--model", tiny_model, "-q")
    done = mochi("show", "a.webm")
    assert done.code == 0
    rows = dict(line.split(None, 1) for line in done.out.splitlines())
    assert rows["prompt"] == PROMPT
    assert rows["seed"] == "3"
    assert len(rows["model_hash"]) == 64
    assert "negative_prompt" not in rows
    record = json.loads(mochi("show", "a.webm", "--json").out)
    assert record["request"]["prompt"] == PROMPT


def test_show_of_a_strange_video_cannot_speak_to_the_terminal(mochi, here: Path) -> None:  # type: ignore[no-untyped-def]
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    record = {"request": {"prompt": "a\x1b[31mred\nline"}, "other": [1, 2.5]}
    write_video(here / "a.gif", frames, 10, record)
    out = mochi("show", "a.gif").out
    assert "\x1b" not in out
    assert out.splitlines()[1].split() == ["other", "1,2.5"]
    write_video(here / "b.gif", frames, 10)
    assert mochi("show", "b.gif").code == 1


# ------------------------------------------------------------------------------------- reconstruct


def test_a_video_goes_through_the_vae(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    video = np.random.default_rng(0).integers(0, 256, (15, 40, 52, 3), dtype=np.uint8)
    write_video(here / "in/", video, 10)
    done = mochi("reconstruct", "in", "-o", "copy/", "--model", tiny_model)
    assert done.code == 0, done.err
    copy = read_video(here / "copy")
    assert copy.shape == (13, 32, 48, 3)
    original = read_video(here / "in", (32, 48), frames=13)
    error = np.mean((original.astype(float) - copy) ** 2)
    decibels = 10 * np.log10(255**2 / error)
    assert f"PSNR {decibels:.2f} dB" in done.out
    words = ("--frames", 7, "--height", 16, "--width", 16, "--json", "--model", tiny_model)
    report = json.loads(mochi("reconstruct", "in", "-o", "small.mp4", *words).out)
    assert report["output"] == "small.mp4"
    bare = json.loads(mochi("reconstruct", "in", *words).out)
    assert bare == {"output": None, "psnr_db": report["psnr_db"]}
    assert 0 < report["psnr_db"] < 60
    assert read_video(here / "small.mp4").shape == (7, 16, 16, 3)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["in", "--frames", "8"], 2, "frames=8"),
        (["in", "--frames", "61"], 1, "15 frames"),
        (["none.mp4"], 1, "none.mp4"),
        (["in", "--model", "nanoo"], 2, "nanoo"),
    ],
)
def test_a_video_that_does_not_go_through(
    mochi,  # type: ignore[no-untyped-def]
    tiny_model: Path,
    here: Path,
    words: list[str],
    code: int,
    says: str,
) -> None:
    write_video(here / "in/", np.zeros((15, 32, 32, 3), np.uint8), 10)
    model = [] if "--model" in words else ["--model", str(tiny_model)]
    done = mochi("reconstruct", *words, "-o", "out.mp4", *model)
    assert done.code == code
    assert says in done.err
    assert sorted(path.name for path in here.iterdir()) == ["in"]


# ------------------------------------------------------------------------------------------ doctor


def test_doctor_knows_machine_and_models(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    done = mochi("doctor", "--model", tiny_model, "--model", here / "none", "--device", "cpu")
    assert done.code == 0
    assert f"model    {tiny_model}" in done.out
    assert "32x32, 13 frames by default, which fits" in done.out
    assert f"{here / 'none'}: cannot be used" in done.out
    assert "device   cpu" in done.out
    report = json.loads(mochi("doctor", "--json", "--model", tiny_model).out)
    assert report["machine"]["memory_bytes"] > 0
    (state,) = [state for state in report["models"] if state["name"] == str(tiny_model)]
    assert state["fits"] == {"frames": 13, "height": 32, "width": 32}
    assert mochi("doctor", "--device", "tpu").code == 2


# ----------------------------------------------------------------------------------------- weights


def test_verify_tells_good_from_bad(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    import shutil

    assert mochi("weights", "verify", tiny_model).code == 0
    shutil.copytree(tiny_model, here / "model")
    path = here / "model" / "dit.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    bad = mochi("weights", "verify", "model")
    assert bad.code == 1
    assert "BAD  dit" in bad.out
    findings = json.loads(mochi("weights", "verify", "model", "--json").out)
    assert {finding["name"]: finding["ok"] for finding in findings}["dit"] is False
    assert mochi("weights", "verify", here / "none").code == 2  # a name that means nothing


def test_download_passes_on_what_was_asked(
    mochi,  # type: ignore[no-untyped-def]
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mochi.weights import hub

    asked = {}

    def fetch(name, folder, **options):  # type: ignore[no-untyped-def]
        asked.update(options, name=name, folder=folder)
        options["on_plan"]("the plan")
        options["on_progress"](hub.DownloadProgress("dit.safetensors", 5, 10))
        return Path("models/x")

    monkeypatch.setattr(hub, "download", fetch)
    words = ("--revision", "main", "--parts", "dit,decoder", "--endpoint", "http://localhost:1")
    done = mochi("weights", "download", "a/b", "models/x", *words)
    assert (done.code, done.out) == (0, "models/x\n")
    assert "the plan" in done.err
    assert asked["name"] == "a/b"
    assert asked["folder"] == Path("models/x")
    assert asked["parts"] == ["dit", "decoder"]
    assert asked["revision"] == "main"
    assert asked["endpoint"] == "http://localhost:1"
    wrong = mochi("weights", "download", "a/b", "--parts", "dit,unet")
    assert (wrong.code, "decoder" in wrong.err) == (2, True)
    as_json = mochi("weights", "download", "a/b", "--json")
    assert json.loads(as_json.out) == {"name": "a/b", "folder": "models/x"}
    assert as_json.err == ""


# ---------------------------------------------------------------------------------------- progress


def test_lines_are_few_and_say_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    clock_of_ours = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(progress_module, "time", clock_of_ours)
    lines = Lines(sys.stderr)
    lines(PhaseStarted("denoise", 64))
    for step in range(1, 65):
        lines(StepDone(step, 64, 0.5, 0.01, 0.01 * step, 0.0))
    lines(FramesDone(1, 13))
    lines(PhaseEnded("denoise", 0.64))
    lines(Notice("look"))
    assert capsys.readouterr().err.splitlines() == ["Denoising: 0.6 s", "look"]
    now[0] += 10
    lines(StepDone(7, 64, 0.5, 4.0, 28.0, 245.0))
    assert capsys.readouterr().err == "  step 7/64, 4.00 s/step, 4:05 left\n"


def test_bars_show_every_phase_on_a_terminal() -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with progress(stream=terminal) as listen:
        for _ in range(2):  # a second run under the same bars
            for phase, total in (("text", None), ("denoise", 2), ("decode", 7)):
                listen(PhaseStarted(phase, total))
                if phase == "denoise":
                    listen(StepDone(1, 2, 0.5, 4.0, 4.0, 75.0))
                if phase == "decode":
                    listen(FramesDone(7, 7))
                listen(PhaseEnded(phase, 1.0))
        listen(Notice("[not markup]"))
    text = terminal.getvalue()
    assert "Denoising" in text
    assert "2/2" in text
    assert "[not markup]" in text


def test_a_warning_is_one_line_and_only_ours_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        say_warnings()
        warnings.warn("theirs", stacklevel=1)
        warnings.warn_explicit("ours,\nlong", UserWarning, "x.py", 1, module="mochi.text.encoder")
    assert capsys.readouterr().err == "mochi: warning: ours, long\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00"), (3725, "1:02:05")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
