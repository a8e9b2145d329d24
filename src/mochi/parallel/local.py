"""Ranks as processes of this machine.

They are started as commands, not by `multiprocessing`: a script needs no `if __name__ ==
"__main__"`, and a session without a file will do. Each has a session of its own, so that Ctrl-C
reaches the supervisor alone; each ends when its stdin does, so none outlives the supervisor.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from mochi.core.errors import RankError
from mochi.parallel.channel import Channel

_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from importlib import import_module; import_module(sys.argv[2]).main()"
)
_LAST_LINES, _GOODBYE_SECONDS = 50, 1.0


class LocalRanks:
    """Some ranks on this machine, each a process.

    Args:
        program: a module with a function `main` that serves `rank_channel()`.
        starts: what each rank is told first, by its number.

    Raises:
        RankError: a process cannot be started.
    """

    def __init__(self, program: str, starts: Mapping[int, Mapping[str, Any]]):
        self._processes: dict[int, _Process] = {}
        try:
            for rank in starts:
                self._processes[rank] = _Process(program, rank)
            for rank, start in starts.items():
                self.say(rank, "start", **start)
        except BaseException:
            self.end()
            raise

    @property
    def ranks(self) -> tuple[int, ...]:
        """Their numbers."""
        return tuple(self._processes)

    @property
    def pids(self) -> dict[int, int]:
        """Their processes."""
        return {rank: process.pid for rank, process in self._processes.items()}

    def say(self, rank: int, kind: str, **content: Any) -> None:
        """Tell a rank; one that has gone will be found by `poll`."""
        with suppress(OSError):
            self._processes[rank].channel.say(kind, **content)

    def poll(self, seconds: float) -> list[tuple[int, str, dict[str, Any]]]:
        """What ranks have said, one message of each, after at most so many seconds. `ended`, with a
        `reason`, is the last that is heard of a rank."""
        there = {p.channel.incoming: r for r, p in self._processes.items() if not p.gone}
        found = []
        for incoming in wait(list(there), seconds):
            rank = there[incoming]  # type: ignore[index]
            try:
                kind, content = self._processes[rank].channel.hear()
            except (EOFError, OSError):
                kind, content = "ended", {"reason": self._processes[rank].reason()}
            found.append((rank, kind, content))
        return found

    def end(self) -> None:
        """End all of them now."""
        for process in self._processes.values():
            process.hang_up()
        for process in self._processes.values():
            process.end()


class _Process:
    def __init__(self, program: str, rank: int):
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        modules = json.dumps([str(path) for path in sys.path])
        words = [sys.executable, "-c", _CODE, modules, program, f"rank {rank}"]
        try:
            self._process = subprocess.Popen(
                words,
                stdin=theirs_in,
                stdout=theirs_out,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            os.close(ours_in)
            os.close(ours_out)
            raise RankError(f"rank {rank} cannot be started: {error}", rank) from error
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self.channel = Channel(
            Connection(ours_in, writable=False), Connection(ours_out, readable=False)
        )
        self.gone = False
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        assert self._process.stderr is not None
        self._reader = threading.Thread(
            target=_keep_lines, args=(self._process.stderr, self._lines), daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def reason(self) -> str:
        """Why it has gone."""
        self.gone = True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GOODBYE_SECONDS)
        self._reader.join(_GOODBYE_SECONDS)
        return how_it_ended(self._process.poll(), self._lines[-1] if self._lines else "")

    def hang_up(self) -> None:
        with suppress(OSError):
            self.channel.close()

    def end(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GOODBYE_SECONDS)
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with whatever it started
        self._process.wait()
        self._reader.join(_GOODBYE_SECONDS)


def how_it_ended(code: int | None, last_line: str) -> str:
    """A process's end in words.

    Args:
        code: as `subprocess` has it: minus the signal's number, where one ended it; None where it
            goes on although its pipes are closed.
        last_line: of what it wrote.
    """
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
        hint = " (the system does that where memory runs out)" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
    about = f": {last_line}" if last_line else ""
    return f"ended unasked{about}" if code is None else f"ended with exit code {code}{about}"


def rank_channel() -> Channel:
    """In a rank: the way to its supervisor. What libraries print goes to stderr from now on."""
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return Channel(Connection(incoming, writable=False), Connection(outgoing, readable=False))


def _keep_lines(stream: IO[bytes], lines: deque[str]) -> None:
    with stream:
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            if text:
                lines.append(text)
