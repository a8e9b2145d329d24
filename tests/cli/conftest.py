"""Commands run in this process, as `main` would run them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mochi.cli.app import run
from mochi.cli.interrupt import Interrupt


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, and what it printed."""

    code: int
    out: str
    err: str


Mochi = Callable[..., Result]


@pytest.fixture
def mochi(capsys: pytest.CaptureFixture[str]) -> Mochi:
    """Runs `mochi WORDS...`; signals stay pytest's."""

    def call(*words: object, interrupt: Interrupt | None = None) -> Result:
        code = run([str(word) for word in words], interrupt or Interrupt())
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
