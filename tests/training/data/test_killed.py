"""`mochi prepare` killed as a machine that loses power kills, and started again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.training.data.movies import moving, write_captioned

from mochi.training.data.dataset import open_dataset

KILLS = 8


def start(clips: Path, data: Path, model: Path) -> subprocess.Popen[bytes]:
    words = ("prepare", str(clips), "-o", str(data), "--model", str(model), "-q", "--workers", "2")
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    return subprocess.Popen([sys.executable, "-m", "mochi", *words], env=environment)


def contents(root: Path) -> dict[str, bytes]:
    """All that a trainer sees, and nothing half written."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    assert [path.name for path in files if path.name.endswith(".part")] == []
    chosen = [path for path in files if path.name not in ("report.json", ".lock")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in chosen}


@pytest.mark.long
def test_killed_at_random_moments(tmp_path: Path, tiny_model: Path) -> None:
    clips = tmp_path / "clips"
    for number in range(24):
        video = moving(25, 64, 64, (10 * number, 90, 200 - 5 * number))
        write_captioned(clips / f"{number:02}.mp4", video, f"a square {number}")
    before = time.monotonic()
    assert start(clips, tmp_path / "whole", tiny_model).wait() == 0
    needed = time.monotonic() - before
    dice = random.Random(0)
    for _ in range(KILLS):
        process = start(clips, tmp_path / "data", tiny_model)
        time.sleep(dice.uniform(0.3, 1.0) * needed)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(clips, tmp_path / "data", tiny_model).wait() == 0
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")
    assert len(open_dataset(tmp_path / "data")) == 24
