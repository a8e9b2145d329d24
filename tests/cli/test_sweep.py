"""`mochi sweep`: good lines are made, bad ones told, and it goes on where it stopped."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

import mochi as package
from mochi.core.errors import OutputError
from mochi.pipeline.pipeline import Pipeline
from mochi.video.metadata import read_request

RED = {"prompt": "a red circle", "seed": 1, "frames": 7}
BLUE = {"prompt": "a blue square", "seed": 2, "frames": 7, "output": "blue.gif"}


def write(path: Path, *lines: Any) -> Path:
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines),
        encoding="utf-8",
    )
    return path


def reports(done) -> list[dict[str, Any]]:  # type: ignore[no-untyped-def]
    return [json.loads(line) for line in done.out.splitlines()]


def test_each_line_becomes_a_video(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    file = write(here / "r.jsonl", RED, "", BLUE)
    done = mochi("sweep", file, "-o", "videos", "--model", tiny_model, "--json")
    assert done.code == 0, done.err
    assert [(report["line"], report["status"]) for report in reports(done)] == [
        (1, "made"),
        (3, "made"),
    ]
    names = sorted(path.name for path in (here / "videos").iterdir())
    assert names[1] == "blue.gif"
    assert names[0].startswith("a-red-circle-seed1-")
    recorded = read_request(here / "videos" / names[0])["request"]
    assert recorded == package.load(str(tiny_model)).request(**RED).to_dict()


def test_bad_lines_are_told_with_number_and_field_and_the_rest_goes_on(
    mochi,  # type: ignore[no-untyped-def]
    tiny_model: Path,
    here: Path,
) -> None:
    file = write(
        here / "r.jsonl",
        {"prompt": "a red circle", "frames": 160},
        "{not json",
        [1, 2],
        {"seed": 3},
        {"prompt": "a", "step": 5},
        {"prompt": "a", "model": "other"},
        {"prompt": "a", "output": "../../x.mp4"},
        {"prompt": "a", "output": "x.avi"},
        {"prompt": "a", "guidance": float("nan")},
        {"prompt": ["a"]},
        {"prompt": "a", "like": {}},
        BLUE,
        {**RED, "output": "blue.gif"},
    )
    done = mochi("sweep", file, "-o", "videos", "--model", tiny_model)
    assert done.code == 2
    assert "Traceback" not in done.err
    errors = [line for line in done.err.splitlines() if "error:" in line]
    fields = ["frames", "line", "line", "prompt", "step", "model", "output", "output", "guidance"]
    fields += ["prompt", "like", "output"]
    numbers = [*range(1, 12), 13]
    for error, number, field in zip(errors, numbers, fields, strict=True):
        assert error.startswith(f"mochi: error: {file}:{number}: {field}="), error
    assert "line 12" in errors[-1]
    assert [path.name for path in (here / "videos").iterdir()] == ["blue.gif"]


def test_a_second_run_makes_only_what_is_missing(
    mochi,  # type: ignore[no-untyped-def]
    tiny_model: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write(here / "r.jsonl", RED, BLUE, {**RED, "seed": 3})
    words = ("sweep", file, "-o", "v", "--model", tiny_model, "--json")
    assert mochi(*words).code == 0
    (here / "v" / "blue.gif").unlink()
    made = []
    render = Pipeline.generate_to
    monkeypatch.setattr(
        Pipeline, "generate_to", lambda *a, **k: made.append(a[1].name) or render(*a, **k)
    )
    done = mochi(*words)
    assert done.code == 0
    assert [report["status"] for report in reports(done)] == ["there", "there", "made"]
    assert made == ["blue.gif"]
    assert len(reports(mochi(*words, "--overwrite"))) == 3
    assert len(made) == 4


def test_another_file_of_the_same_name_is_not_taken_for_a_result(
    mochi,  # type: ignore[no-untyped-def]
    tiny_model: Path,
    here: Path,
) -> None:
    (here / "v").mkdir()
    (here / "v" / "blue.gif").write_text("mine")
    done = mochi("sweep", write(here / "r.jsonl", BLUE, RED), "-o", "v", "--model", tiny_model)
    assert done.code == 1
    assert "blue.gif: exists already" in done.err
    assert (here / "v" / "blue.gif").read_text() == "mine"
    assert len(list((here / "v").iterdir())) == 2


def test_a_line_that_fails_is_reported_and_the_rest_goes_on(
    mochi,  # type: ignore[no-untyped-def]
    tiny_model: Path,
    here: Path,
) -> None:
    large = {**RED, "frames": 6 * 10**9 + 1}
    file = write(here / "r.jsonl", large, BLUE)
    done = mochi("sweep", file, "-o", "v", "--model", tiny_model, "--json")
    assert done.code == 1
    first, second = sorted(reports(done), key=lambda report: report["line"])
    assert first["status"] == "failed"
    assert "would fit" in first["error"] or "no size" in first["error"]
    assert second["status"] == "made"


def test_a_full_disk_stops_the_sweep(
    mochi,  # type: ignore[no-untyped-def]
    tiny_model: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def fail(pipe: Pipeline, path: Path, *_: object, **__: object) -> None:
        tried.append(path)
        raise OutputError(f"{path}: the disk is full") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Pipeline, "generate_to", fail)
    done = mochi("sweep", write(here / "r.jsonl", RED, BLUE), "-o", "v", "--model", tiny_model)
    assert done.code == 1
    assert len(tried) == 1
    assert done.err.splitlines()[-1].endswith("the disk is full")


def test_the_networks_are_loaded_once_and_prompts_in_groups(
    mochi,  # type: ignore[no-untyped-def]
    tiny_model: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups, loads = [], []
    prepare, load = Pipeline.prepare_prompts, package.load
    monkeypatch.setattr(
        Pipeline, "prepare_prompts", lambda self, p: groups.append(len(p)) or prepare(self, p)
    )
    monkeypatch.setattr(package, "load", lambda *a, **k: loads.append(a) or load(*a, **k))
    lines = [{**RED, "seed": seed} for seed in range(3)]
    assert mochi("sweep", write(here / "r.jsonl", *lines), "--model", tiny_model).code == 0
    assert (groups, len(loads)) == ([6], 1)
    assert len(list((here / "sweep").iterdir())) == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), ("", "holds no requests"), ("\n \n", "holds no requests")],
)
def test_a_file_with_nothing_to_do(mochi, here: Path, content: str | None, says: str) -> None:  # type: ignore[no-untyped-def]
    if content is not None:
        (here / "r.jsonl").write_text(content)
    done = mochi("sweep", "r.jsonl", "-o", "v")
    assert done.code == 2
    assert says in done.err
    assert not (here / "v").exists()


def test_bytes_that_are_no_text_and_a_bom(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    (here / "r.jsonl").write_bytes(b"\xff\xfe\x00")
    assert mochi("sweep", "r.jsonl").code == 2
    (here / "s.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(BLUE).encode() + b"\r\n")
    assert mochi("sweep", "s.jsonl", "--model", tiny_model, "-q").code == 0


def test_a_preset_and_a_format_for_all(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("--preset", "fast", "--format", "gif", "-o", "v", "--model", tiny_model, "-q")
    lines = write(here / "r.jsonl", {**RED, "steps": 3}, {**RED, "preset": "draft", "steps": 2})
    assert mochi("sweep", lines, *words).code == 0
    records = [read_request(path)["request"] for path in sorted((here / "v").glob("*.gif"))]
    assert {(r["preset"], r["steps"]) for r in records} == {("fast", 3), ("draft", 2)}
    assert mochi("sweep", lines, "--format", "avi", "-o", "w").code == 2
    assert mochi("sweep", lines, "--preset", "slow", "-o", "w").code == 2
    assert not (here / "w").exists()
