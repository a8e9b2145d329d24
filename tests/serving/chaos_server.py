"""A server in a process of its own, with runners that need no model. Words: settings as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

from mochi.serving.runner.process import ProcessRunner
from mochi.serving.server import serve
from mochi.serving.settings import ServeSettings

FAKE = [sys.executable, str(Path(__file__).with_name("fake_child.py"))]


def fake_runner(device: str, models: Any) -> ProcessRunner:
    return ProcessRunner(device, models, FAKE)


if __name__ == "__main__":
    settings = ServeSettings(**json.loads(sys.argv[1]))
    serve(settings, lambda url: print(url, flush=True), fake_runner)
