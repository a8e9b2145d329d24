"""`mochi prepare` on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from mochi.training.data.dataset import open_dataset
from mochi.video.writer import write_video


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, level in (("a", 40), ("b", 200)):
        write_video(folder / f"{name}.mp4", np.full((13, 48, 64, 3), level, np.uint8), 12)
        (folder / f"{name}.txt").write_text(f"a square {name}")
    (folder / "c.mp4").write_bytes(b"nothing")
    return folder


def test_a_folder_becomes_data(mochi, clips: Path, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    data = clips.parent / "data"
    done = mochi("prepare", clips, "-o", data, "--model", tiny_model)
    assert done.code == 0, done.err
    assert "2 samples (2 of 13x32x32), 2.2 s of video, 1 skipped" in done.out
    assert "skipped: c.mp4: is no video" in done.err
    assert "Encoding clips: 3 of 3" not in done.err
    assert "Encoding clips: 2 of 2" in done.err
    assert len(open_dataset(data)) == 2
    again = mochi("prepare", clips, "-o", data, "--model", tiny_model, "--json")
    assert (json.loads(again.out)["made_now"], again.err) == (0, "")


def test_buckets_and_rate(mochi, clips: Path, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("--bucket", "7x48x64", "--bucket", "13x32x32", "--fps", "6", "--workers", "1")
    done = mochi("prepare", clips, "-o", clips.parent / "d", "--model", tiny_model, *words, "-q")
    assert (done.code, done.out) == (0, "")
    assert [it.bucket for it in open_dataset(clips.parent / "d").samples] == ["7x48x64"] * 2


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--frames", "36"), "frames=36 is not 6k+1; nearest: 31 and 37"),
        (("--size", "800"), "is not WIDTHxHEIGHT; nearest: 848x480"),
        (("--size", "33x32"), "width=33 is not a multiple of 16"),
        (("--bucket", "36x32x32"), "frames=36 is not 6k+1"),
        (("--bucket", "x"), "is not FRAMESxHEIGHTxWIDTH"),
        (("--bucket", "7x32x32", "--frames", "7"), "it says all three"),
        (("--fps", "0"), "fps=0"),
        (("--caption", " "), "caption=' ' is empty"),
    ],
)
def test_requests_that_break_a_rule(mochi, clips: Path, words: tuple[str, ...], what: str) -> None:  # type: ignore[no-untyped-def]
    done = mochi("prepare", clips, "-o", clips.parent / "d", *words)
    assert (done.code, done.out) == (2, "")
    assert what in done.err
    assert not (clips.parent / "d").exists()


def test_no_clips(mochi, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = mochi("prepare", tmp_path, "-o", tmp_path / "d")
    assert done.code == 2
    assert "holds no videos" in done.err
