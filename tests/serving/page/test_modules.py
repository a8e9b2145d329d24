"""Parts of the page by themselves: against other ways to the same answer, and hostile bytes."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.serving.page.conftest import CHROMIUM
from tests.serving.page.fake_answers import PAGE

from mochi.video.metadata import read_request
from mochi.video.writer import open_writer

Call = Callable[..., object]
chromium = pytest.mark.needs_system("chromium", **CHROMIUM)
EXAMPLES = PAGE / "examples"
RECORD = json.loads((EXAMPLES / "examples.json").read_text())
READ = "m.readRequest(Uint8Array.from(atob(x), (c) => c.charCodeAt(0)).buffer)"


def test_examples_are_small_and_say_what_made_them() -> None:
    assert 6 <= len(RECORD["examples"]) <= 8
    for example in RECORD["examples"]:
        clip = EXAMPLES / example["output"]
        assert clip.stat().st_size < 40_000
        assert (EXAMPLES / example["poster"]).stat().st_size < 10_000
        made_by = read_request(clip)["request"]
        assert {key: made_by[key] for key in example["input"]} == example["input"]
        assert example["metrics"]["predict_time"] > 0


@chromium
@pytest.mark.parametrize("ending", ["mp4", "gif", "webm"])
def test_settings_are_read_as_python_reads_them(module: Call, tmp_path: Path, ending: str) -> None:
    request = {"prompt": 'ünïcode "quotes" \\ }{ \u2028 ' + "long " * 200, "seed": 2**53 - 1}
    path = tmp_path / f"clip.{ending}"
    frames = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    with open_writer(path, 12, (32, 32), {"request": request}) as writer:
        writer.write(frames)
    assert read_request(path)["request"] == request
    assert module("mp4", READ, base64.b64encode(path.read_bytes()).decode()) == request


@chromium
def test_hostile_files_are_nothing(module: Call) -> None:
    rng = random.Random(0)
    whole = (EXAMPLES / "red-circle.mp4").read_bytes()
    ftyp = b"\x00\x00\x00\x08ftyp"
    nested = b"".join(b"\xff\xff\xff\xffmoov" for _ in range(50))
    files = [
        b"",
        b"\x00" * 64,
        ftyp + nested,
        ftyp + b"\x00\x00\x00\x00moov",
        ftyp + b"\x00\x00\x00\x01udta",
    ]
    files += [
        b'{"mochi_request"',
        b'{"mochi_request": [1]}',
        b'{"mochi_request": null} {',
        b"GIF8" + b"!\xfe\xff",
    ]
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(8):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        files.append(bytes(damaged[: rng.randrange(8, len(damaged))]))
    texts = [base64.b64encode(file).decode() for file in files]
    line = f"x.map((x) => {READ}).map((found) => found === null || typeof found === 'object')"
    assert all(module("mp4", line, texts))
    assert module("mp4", READ, texts[0]) is None


@chromium
def test_events_are_the_same_however_a_stream_is_cut(module: Call) -> None:
    text = ': hello\r\n\r\nid: 1\nevent: step\ndata: {"a":1}\n\nevent: log\ndata: one\ndata:two\n\n'
    text += "id: 3\r\nevent: done\r\ndata: é\r\n\r\ndata: never ended"
    line = """x.cuts.map((cuts) => {
      const parser = new m.EventParser(), ends = [...cuts, x.text.length];
      return ends.flatMap((end, k) => parser.push(x.text.slice(k ? ends[k - 1] : 0, end)));
    })"""
    rng = random.Random(1)
    cuts = [sorted(rng.sample(range(len(text)), k=rng.randrange(12))) for _ in range(200)]
    parsed = module("sse", line, {"text": text, "cuts": [[], list(range(len(text))), *cuts]})
    whole = [
        {"event": "step", "data": '{"a":1}', "id": "1"},
        {"event": "log", "data": "one\ntwo", "id": ""},
        {"event": "done", "data": "é", "id": "3"},
    ]
    assert all(found == whole for found in parsed)


@chromium
def test_progress_never_runs_backwards(module: Call) -> None:
    events = [["phase", {"phase": "text"}], ["phase", {"phase": "denoise", "total": 4}]]
    events += [["step", {"step": k, "steps": 4, "seconds_per_step": 1}] for k in range(1, 5)]
    events += [["phase", {"phase": "decode", "total": 25}]]
    events += [["frames", {"frames": k, "total": 25}] for k in (7, 13, 25)]
    events += [["phase", {"phase": "write"}], ["unknown", {}]]
    line = """x.reduce(([p, out], [event, data]) => { const next = m.advance(p, event, data);
      return [next, [...out, m.fraction(next)]]; }, [m.nothingYet(), []])[1]"""
    shares = module("progress", line, events)
    assert shares == sorted(shares)
    assert 0.95 < shares[-1] <= 1
    after = (
        "m.fraction(m.advance(m.advance(m.nothingYet(), 'phase', {phase: 'text'}), 'retry', {}))"
    )
    assert module("progress", after) == 0


@chromium
def test_smaller_settings_stay_legal_and_end(module: Call) -> None:
    fields = [
        {"name": "num_frames", "minimum": 30, "default": 163},
        {"name": "width", "minimum": 16, "default": 848},
        {"name": "height", "minimum": 16, "default": 480},
        {"name": "num_inference_steps", "minimum": 10, "default": 64},
    ]
    line = "Array(12).fill(0).reduce((values) => m.smaller(values, x), {prompt: 'x'})"
    least = module("failures", line, fields)
    assert least == {
        "prompt": "x",
        "num_frames": 31,
        "width": 16,
        "height": 16,
        "num_inference_steps": 10,
    }


@chromium
def test_readme_links_go_only_where_links_may(module: Call) -> None:
    text = (
        "[a](javascript:alert(1)) [b](https://example.org/) [c](data:text/html,x) <b>no</b> **yes**"
    )
    line = "m.markdown(x).map((e) => e.outerHTML).join('')"
    assert module("markdown", line, text) == (
        '<p>a) <a href="https://example.org/" rel="noopener noreferrer">b</a> c'
        " &lt;b&gt;no&lt;/b&gt; <strong>yes</strong></p>"
    )


@pytest.mark.skipif(not shutil.which("tsc"), reason="types are checked where TypeScript is (tsc)")
def test_types_hold() -> None:
    config = Path(__file__).parent / "jsconfig.json"
    result = subprocess.run(["tsc", "-p", str(config)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout


@chromium
def test_times_in_words(module: Call) -> None:
    times = [0.5, 9.96, 59.7, 89.9, 119.7, 179.6, 3600, 7200]
    words = ["0.50 s", "10.0 s", "60 s", "90 s", "2 min", "3 min", "60 min", "2.0 h"]
    assert module("format", "x.map((time) => m.seconds(time))", times) == words
