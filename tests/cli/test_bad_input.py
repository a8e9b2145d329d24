"""Bad input: one clear line on stderr, the right exit code, nothing written."""

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mochi.pipeline.budget as budget_module
from mochi.core.presets import PRESETS
from mochi.video.output import claim

PROMPT = "a red circle moves left on a black background"
OUT = ("-o", "out.mp4")


def assert_refused(done, code: int, here: Path, *words: str) -> None:  # type: ignore[no-untyped-def]
    """One line, no traceback, the code, and nothing but what was there."""
    assert done.code == code, done
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if line.startswith("mochi: ")]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in lines[0], lines[0]
    assert not any(path.name.startswith(("out", ".out")) for path in here.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--frames", "160"], ["frames=160", "157 and 163"]),
        (["--frames", "0"], ["frames=0"]),
        (["--frames", "-5"], ["frames=-5"]),
        (["--height", "100"], ["height=100", "96 and 112"]),
        (["--width", "-16"], ["width=-16"]),
        (["--width", "7.5"], ["--width", "integer"]),
        (["--steps", "nan"], ["--steps"]),
        (["--steps", "0"], ["steps=0"]),
        (["--guidance", "nan"], ["guidance=nan", "finite"]),
        (["--guidance", "inf"], ["guidance=inf"]),
        (["--guidance", "-1"], ["guidance=-1"]),
        (["--guidance", "high"], ["guidance='high'"]),
        (["--guidance", "1,2"], ["guidance", "2 scales for 4 steps"]),
        (["--threshold", "nan"], ["threshold=nan"]),
        (["--threshold", "1.5"], ["threshold=1.5"]),
        (["--linear-steps", "9"], ["linear_steps=9", "steps=4"]),
        (["--fps", "0"], ["fps=0"]),
        (["--seed", "-1"], ["seed=-1"]),
        (["--seed", "99999999999999999999"], ["seed"]),
        (["--preset", "slow"], ["preset='slow'", *PRESETS]),
        (["--solver", "rk4"], ["solver='rk4'", "euler"]),
        (["--device", "tpu"], ["device='tpu'", "cpu"]),
        (["--devices", "2"], ["devices=2", "nearest: 1"]),
        (["--dtype", "fp4"], ["dtype='fp4'", "bfloat16"]),
        (["--attention", "warp"], ["attention='warp'", "sdpa, chunked"]),
        (["--attention", "flash3"], ["attention='flash3' does not run here", "auto"]),
        (["--kernels", "warp"], ["kernels='warp'", "plain, lean"]),
        (["--passes", "both"], ["passes='both'", "together, apart"]),
        (["--frams", "7"], ["--frams"]),
        (["--frames"], ["--frames"]),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_bad_option(
    mochi, tiny_model: Path, here: Path, words: list[str], says: list[str]
) -> None:  # type: ignore[no-untyped-def]
    done = mochi("generate", PROMPT, *OUT, "--model", tiny_model, *words)
    assert_refused(done, 2, here, *says)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [("", "empty"), ("  \n ", "empty"), ("x" * 100_000, "100000 characters")],
    ids=["empty", "white space", "100,000 characters"],
)
def test_a_bad_prompt(mochi, tiny_model: Path, here: Path, prompt: str, says: str) -> None:  # type: ignore[no-untyped-def]
    done = mochi("generate", prompt, *OUT, "--model", tiny_model)
    assert_refused(done, 2, here, "prompt", says)
    assert len(done.err) < 400


def test_no_prompt_and_too_many(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    assert_refused(mochi("generate", *OUT, "--model", tiny_model), 2, here, "prompt")
    assert_refused(mochi("generate", "a", "red", "circle", *OUT), 2, here, "red")
    assert_refused(mochi("genrate", "a"), 2, here, "genrate", "generate")


@pytest.mark.parametrize("name", ["nanoo", "/no/such/model", "./models"])
def test_an_unknown_model_lists_what_exists(mochi, here: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    done = mochi("generate", PROMPT, *OUT, "--model", name)
    assert_refused(done, 2, here, name, "nearest: nano")


@pytest.mark.parametrize("name", ["out.avi", "out.png", "out.mp3"])
def test_an_unknown_ending_lists_what_exists(
    mochi, tiny_model: Path, here: Path, name: str
) -> None:  # type: ignore[no-untyped-def]
    done = mochi("generate", PROMPT, "-o", name, "--model", tiny_model)
    assert_refused(done, 2, here, name, ".mp4", ".webm", ".gif")


# ---------------------------------------------------------------------------------- broken weights


@pytest.fixture
def broken(tiny_model: Path, here: Path) -> Path:
    """A copy of the model to break."""
    return Path(shutil.copytree(tiny_model, here / "model"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def no_safetensors(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + b"x" * 1000)


def with_nan(path: Path) -> None:
    state = load_file(path)
    name = next(name for name, tensor in state.items() if tensor.ndim > 1)
    state[name].view(-1)[-1] = float("nan")
    save_file(state, path)


def wrong_shape(path: Path) -> None:
    state = load_file(path)
    name = max(state, key=lambda name: state[name].numel())
    state[name] = torch.cat([state[name], state[name]])
    save_file(state, path)


def missing_tensor(path: Path) -> None:
    state = load_file(path)
    state.pop(sorted(name for name in state if name.endswith("weight"))[-1])
    save_file(state, path)


@pytest.mark.parametrize(
    "damage", [truncated, emptied, no_safetensors, with_nan, wrong_shape, missing_tensor]
)
@pytest.mark.parametrize(
    "file", ["dit.safetensors", "decoder.safetensors", "text_encoder/model.safetensors"]
)
def test_a_damaged_file_is_named(mochi, broken: Path, here: Path, damage, file: str) -> None:  # type: ignore[no-untyped-def]
    damage(broken / file)
    done = mochi("generate", PROMPT, *OUT, "--model", broken)
    assert_refused(done, 1, here)
    named = file.split("/")[0].removesuffix(".safetensors")
    assert named in done.err or "text encoder" in done.err


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder"])
def test_a_missing_text_part(mochi, broken: Path, here: Path, part: str) -> None:  # type: ignore[no-untyped-def]
    shutil.rmtree(broken / part)
    done = mochi("generate", PROMPT, *OUT, "--model", broken)
    assert_refused(done, 1, here, part, "mochi weights download")


def test_an_empty_tokenizer_and_a_wrong_card(mochi, broken: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    (broken / "tokenizer" / "tokenizer.json").write_text("{}")
    assert_refused(mochi("generate", PROMPT, *OUT, "--model", broken), 1, here, "tokenizer")
    (broken / "mochi.json").write_text(json.dumps({"defaults": {"frames": 26}}))
    assert_refused(mochi("generate", PROMPT, *OUT, "--model", broken), 1, here, "mochi.json")


@pytest.mark.parametrize("option", ["--embeddings", "--latents"])
def test_a_damaged_input_file(mochi, tiny_model: Path, here: Path, option: str) -> None:  # type: ignore[no-untyped-def]
    (here / "bad.safetensors").write_bytes(b"no")
    for name in ("bad.safetensors", "none.safetensors"):
        done = mochi("generate", PROMPT, *OUT, "--model", tiny_model, option, name)
        assert_refused(done, 1, here, name)


def test_like_of_something_else(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    (here / "note.txt").write_text("hello")
    for name in ("note.txt", "none.mp4"):
        done = mochi("generate", "--like", name, *OUT, "--model", tiny_model)
        assert_refused(done, 1, here, name)


# -------------------------------------------------------------------------------------- the output


def test_an_existing_output_stays(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    (here / "mine.mp4").write_text("mine")
    done = mochi("generate", PROMPT, "-o", "mine.mp4", "--model", tiny_model)
    assert_refused(done, 1, here, "mine.mp4", "--overwrite")
    assert (here / "mine.mp4").read_text() == "mine"
    done = mochi("generate", PROMPT, "-o", "mine.mp4", "--overwrite", "--model", tiny_model)
    assert done.code == 0
    assert (here / "mine.mp4").read_bytes()[4:8] == b"ftyp"


def test_a_failure_leaves_the_output_that_was_to_be_replaced(
    mochi,  # type: ignore[no-untyped-def]
    broken: Path,
    here: Path,
) -> None:
    (here / "mine.mp4").write_text("mine")
    with_nan(broken / "decoder.safetensors")
    done = mochi("generate", PROMPT, "-o", "mine.mp4", "--overwrite", "--model", broken)
    assert_refused(done, 1, here, "NaN")
    assert (here / "mine.mp4").read_text() == "mine"


def test_a_folder_that_is_not_there_or_is_a_file(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    (here / "file").write_text("")
    for name in ("none/out.mp4", "file/out.mp4"):
        done = mochi("generate", PROMPT, "-o", name, "--model", tiny_model)
        assert_refused(done, 1, here, name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    (here / "locked").mkdir(mode=0o500)
    done = mochi("generate", PROMPT, "-o", "locked/out.mp4", "--model", tiny_model)
    assert_refused(done, 1, here, "locked")


def test_a_disk_that_fills_up(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    """The file size limit raises the same kind of error in the same place as a full disk."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        done = mochi("generate", PROMPT, *OUT, "--model", tiny_model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    assert_refused(done, 1, here, "out.mp4")


def test_two_runs_of_one_name(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    with claim(here / "same.mp4") as part:
        done = mochi("generate", PROMPT, "-o", "same.mp4", "--model", tiny_model)
        part.write_text("first")
    assert_refused(done, 1, here, "same.mp4", "another run")
    assert (here / "same.mp4").read_text() == "first"


# -------------------------------------------------------------------------------------- the memory


def test_what_does_not_fit_says_what_would(
    mochi,  # type: ignore[no-untyped-def]
    tiny_model: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget_module, "host_available_bytes", lambda: 100 * 2**20)
    words = ("--frames", 601, "--height", 256, "--width", 256)
    done = mochi("generate", PROMPT, *OUT, "--model", tiny_model, *words)
    assert_refused(done, 1, here, "256x256, 601 frames", "GiB", "would fit")


def test_an_absurd_size_is_refused_at_once(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    for words in (["--frames", 6 * 10**9 + 1], ["--height", 16 * 10**7, "--width", 16 * 10**7]):
        done = mochi("generate", PROMPT, *OUT, "--model", tiny_model, *words)
        assert_refused(done, 1, here, "needs about")
