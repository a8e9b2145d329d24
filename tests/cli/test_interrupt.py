"""Ctrl-C in every phase: exit code 130, one line, no partial file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mochi.cli import generate as generate_module
from mochi.cli.interrupt import Interrupt
from mochi.core.events import Event, FramesDone, PhaseStarted, StepDone

PROMPT = "a red circle moves left on a black background"


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    """Real signal handlers, for the length of a test."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in names}
    try:
        yield Interrupt.install()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_at(monkeypatch: pytest.MonkeyPatch, moment, number: int, times: int = 1) -> None:  # type: ignore[no-untyped-def]
    """Send a real signal to this process when `moment(event)` first holds."""
    sent = []

    def listen(event: Event) -> None:
        if not sent and moment(event):
            sent.append(number)
            for _ in range(times):
                signal.raise_signal(number)

    @contextmanager
    def progress(quiet: bool) -> Iterator[object]:
        yield listen

    monkeypatch.setattr(generate_module, "progress", progress)


MOMENTS = {
    "text": lambda event: event == PhaseStarted("text"),
    "load": lambda event: event == PhaseStarted("load"),
    "first step": lambda event: isinstance(event, StepDone),
    "last step": lambda event: isinstance(event, StepDone) and event.step == event.steps,
    "decode": lambda event: isinstance(event, FramesDone),
    "write": lambda event: event == PhaseStarted("write"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_in_a_phase(  # type: ignore[no-untyped-def]
    mochi, tiny_model: Path, here: Path, monkeypatch, interrupt: Interrupt, moment: str
) -> None:
    raise_at(monkeypatch, MOMENTS[moment], signal.SIGINT)
    words = ("-o", "a.mp4", "--preview", "p.png", "--model", tiny_model)
    done = mochi("generate", PROMPT, *words, interrupt=interrupt)
    assert done.code == 130
    assert done.out == ""
    assert done.err == "mochi: stopped\n"
    assert list(here.iterdir()) == []


def test_the_file_that_was_to_be_replaced_stays(  # type: ignore[no-untyped-def]
    mochi, tiny_model: Path, here: Path, monkeypatch, interrupt: Interrupt
) -> None:
    (here / "a.mp4").write_text("mine")
    raise_at(monkeypatch, MOMENTS["decode"], signal.SIGINT)
    words = ("-o", "a.mp4", "--overwrite", "--model", tiny_model)
    assert mochi("generate", PROMPT, *words, interrupt=interrupt).code == 130
    assert [(path.name, path.read_text()) for path in here.iterdir()] == [("a.mp4", "mine")]


def test_a_termination_says_so_in_its_code(  # type: ignore[no-untyped-def]
    mochi, tiny_model: Path, here: Path, monkeypatch, interrupt: Interrupt
) -> None:
    raise_at(monkeypatch, MOMENTS["first step"], signal.SIGTERM)
    done = mochi("generate", PROMPT, "-o", "a.mp4", "--model", tiny_model, interrupt=interrupt)
    assert done.code == 143
    assert list(here.iterdir()) == []


def test_an_exception_that_gets_lost_still_stops_the_run(  # type: ignore[no-untyped-def]
    mochi, tiny_model: Path, here: Path, monkeypatch, interrupt: Interrupt
) -> None:
    """As when the signal arrives inside a callback of a C library."""

    @contextmanager
    def progress(quiet: bool) -> Iterator[object]:
        def listen(event: Event) -> None:
            if isinstance(event, StepDone) and event.step == 1:
                with suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)

        yield listen

    monkeypatch.setattr(generate_module, "progress", progress)
    done = mochi("generate", PROMPT, "-o", "a.mp4", "--model", tiny_model, interrupt=interrupt)
    assert done.code == 130
    assert list(here.iterdir()) == []


def test_further_signals_do_not_disturb_the_clean_up(interrupt: Interrupt) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert interrupt.exit_code == 130
    assert interrupt.token.cancelled


def test_nohup_keeps_a_run_alive() -> None:
    before = signal.getsignal(signal.SIGHUP)
    others = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        Interrupt.install()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
        for number, handler in others.items():
            signal.signal(number, handler)


STOPPED_INSIDE_EXEC = """
import signal, sys
from mochi.cli import app, commands
from mochi.cli.interrupt import Interrupt

stop = "signal.raise_signal(signal.SIGINT)"
commands.invoke = lambda *_: exec(stop, {"signal": signal})
sys.exit(app.run([], Interrupt.install()))
"""


def test_an_interrupt_inside_exec_ends_with_a_code_not_with_a_signal(here: Path) -> None:
    (here / "stopped.py").write_text(STOPPED_INSIDE_EXEC)
    done = subprocess.run(
        [sys.executable, "-m", "stopped"],
        env={**os.environ, "PYTHONPATH": ":".join([str(here), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "mochi: stopped\n")


def start(tiny_model: Path, here: Path) -> subprocess.Popen[str]:
    # Long enough to be interrupted on any machine: minutes.
    size = ["--frames", "85", "--height", "128", "--width", "128", "--steps", "1000"]
    words = ["generate", PROMPT, "-o", "a.mp4", *size, "--model", str(tiny_model)]
    return subprocess.Popen(
        [sys.executable, "-m", "mochi", *words],
        cwd=here,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_twice_in_a_process_of_its_own(tiny_model: Path, here: Path) -> None:
    run = start(tiny_model, here)
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("  step"):
            break
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=600)
    assert run.returncode == 130, err
    assert err.splitlines()[-1] == "mochi: stopped"
    assert "Traceback" not in err
    assert list(here.iterdir()) == []


def listens(run: subprocess.Popen[str]) -> bool:
    """Whether its handlers are in place: Python by itself catches no SIGTERM."""
    assert run.poll() is None
    lines = Path(f"/proc/{run.pid}/status").read_text().splitlines()
    (caught,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("seconds", [0, 0.2, 0.5, 1, 1.5, 2, 3, 4, 5])
def test_ctrl_c_at_any_moment(tiny_model: Path, here: Path, seconds: float) -> None:
    run = start(tiny_model, here)
    while seconds and not listens(run):  # before that it is Python that is stopped
        time.sleep(0.001)
    time.sleep(seconds)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=600)
    if seconds:
        assert run.returncode == 130, err
        assert "Traceback" not in err
    assert list(here.iterdir()) == []
