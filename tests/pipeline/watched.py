"""A process whose memory is watched from outside, phase by phase.

As a program it makes a video, `python watched.py MODEL MODE SETTINGS`, and says on the way, as
lines of JSON, what it plans, each phase as it begins, and each step as it ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.002


@dataclass
class Watched:
    """What was seen of a process.

    Attributes:
        plan: `Plan.to_dict()`, as the process planned.
        own, mapped: most bytes in each phase: of its own, and of files.
        resident: most bytes of both together.
        seconds: of each phase.
        steps: seconds of each step.
    """

    plan: dict[str, Any] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    mapped: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    resident: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[str, float] = field(default_factory=dict)
    steps: list[float] = field(default_factory=list)


def watch(model: Path, mode: str, **settings: Any) -> Watched:
    """Make a video in a process of its own, and watch its memory."""
    return observe([sys.executable, __file__, str(model), mode, json.dumps(settings)])


def observe(command: Sequence[str]) -> Watched:
    """Watch a process that tells its phases on its standard output.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found, phase = Watched(), ["start"]
    thread = threading.Thread(target=_poll, args=(process, found, phase))
    thread.start()
    assert process.stdout is not None
    began = time.perf_counter()
    for line in process.stdout:
        content, now = json.loads(line), time.perf_counter()
        found.plan = content.get("plan", found.plan)
        found.steps += [content["step"]] if "step" in content else []
        if "phase" in content:
            found.seconds[phase[0]] = now - began
            phase[0], began = content["phase"], now
    found.seconds[phase[0]] = time.perf_counter() - began
    thread.join()
    if process.wait():
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return found


def _poll(process: subprocess.Popen[str], found: Watched, phase: list[str]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            text = status.read_text()
        except OSError:
            return
        for key, most in (
            ("RssAnon:", found.own),
            ("RssFile:", found.mapped),
            ("VmRSS:", found.resident),
        ):
            if key in text:
                size = int(text.split(key)[1].split()[0]) * 1024
                most[phase[0]] = max(most[phase[0]], size)
        time.sleep(POLL_SECONDS)


def _main() -> None:
    import mochi
    from mochi.core.events import Event, PhaseStarted, StepDone

    model, mode, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

    def say(**content: Any) -> None:
        print(json.dumps(content), flush=True)

    def on_event(event: Event) -> None:
        if isinstance(event, PhaseStarted):
            say(phase=event.phase)
        elif isinstance(event, StepDone):
            say(step=event.seconds)

    pipe = mochi.load(model, device="cpu", memory=mode, **settings.pop("load", {}))
    say(plan=pipe.plan(**settings).to_dict())
    pipe.generate(**settings, on_event=on_event)
    say(phase="end")


if __name__ == "__main__":
    _main()
