"""A server in a process of its own, with runners that need no model.

Words: settings as JSON, for one server. Without them it is a nursery: for each line of settings on
its stdin it forks a server, and says its process id and address. Python's imports are done once
then, so that a test may kill hundreds of servers within minutes.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from mochi.serving.runner.process import ProcessRunner
from mochi.serving.server import serve
from mochi.serving.settings import ServeSettings

FAKE = [sys.executable, str(Path(__file__).with_name("fake_child.py"))]


def fake_runner(device: str, models: Any) -> ProcessRunner:
    return ProcessRunner(device, models, FAKE)


def run(settings: dict[str, Any], say: Any) -> None:
    serve(ServeSettings(**settings), say, fake_runner)


def nursery() -> None:
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            be_born(json.loads(line), write)
        os.close(write)
        with os.fdopen(read) as said:  # ends with the server, too
            print(json.dumps({"pid": pid, "url": said.readline().strip()}), flush=True)
        reap()
    reap()


def be_born(settings: dict[str, Any], write: int) -> None:
    os.setsid()
    code = 1
    try:
        run(settings, lambda url: os.write(write, url.encode() + b"\n"))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(json.loads(sys.argv[1]), lambda url: print(url, flush=True))
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        nursery()
