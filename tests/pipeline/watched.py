"""A process whose memory is watched from outside, phase by phase.

As a program it makes a video: `python watched.py MODEL MODE SETTINGS`, first saying what it plans,
then each phase as it begins.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.002


@dataclass
class Watched:
    """What was seen of a process.

    Attributes:
        plan: `Plan.to_dict()`, as the process planned.
        own, mapped: most bytes in each phase, of its own and of files.
        seconds: of each phase.
    """

    plan: dict[str, Any] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=dict)
    mapped: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def peak_own(self) -> int:
        """Over all phases."""
        return max(self.own.values())


def watch(model: Path, mode: str, **settings: Any) -> Watched:
    """Make a video in a process of its own, and watch its memory."""
    command = [sys.executable, __file__, str(model), mode, json.dumps(settings)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found, current = Watched(), ["start"]
    status = Path(f"/proc/{process.pid}/status")

    def poll() -> None:
        while process.poll() is None:
            try:
                text = status.read_text()
            except OSError:
                return
            for key, most in (("RssAnon:", found.own), ("RssFile:", found.mapped)):
                if key in text:
                    size = int(text.split(key)[1].split()[0]) * 1024
                    most[current[0]] = max(most.get(current[0], 0), size)
            time.sleep(POLL_SECONDS)

    thread = threading.Thread(target=poll)
    thread.start()
    assert process.stdout is not None
    began = time.perf_counter()
    for line in process.stdout:
        content = json.loads(line)
        now = time.perf_counter()
        found.seconds[current[0]] = now - began
        if "plan" in content:
            found.plan = content["plan"]
        else:
            current[0], began = content["phase"], now
    thread.join()
    if process.wait():
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return found


def _main() -> None:
    import mochi
    from mochi.core.events import Event, PhaseStarted

    model, mode, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

    def say(**content: Any) -> None:
        print(json.dumps(content), flush=True)

    def on_event(event: Event) -> None:
        if isinstance(event, PhaseStarted):
            say(phase=event.phase)

    pipe = mochi.load(model, device="cpu", memory=mode, **settings.pop("load", {}))
    say(plan=pipe.plan(**settings).to_dict())
    pipe.generate(**settings, on_event=on_event)


if __name__ == "__main__":
    _main()
