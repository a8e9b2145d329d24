"""Processes that stay: a world of gloo ranks which runs functions of the test modules."""

from __future__ import annotations

import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

PATIENCE = timedelta(seconds=600)


class Crew:
    """`size` ranks of one world. A task runs on the first few of them."""

    def __init__(self, size: int):
        context = get_context("spawn")
        self._runs = 0
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name) / "store")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(size):
            mine, theirs = context.Pipe()
            process = context.Process(target=_work, args=(rank, size, store, theirs), daemon=True)
            process.start()
            self._pipes.append(mine)
            self._processes.append(process)

    def run(self, ranks: int, task: Callable[..., Any], *args: Any) -> list[Any]:
        """What `task(world, *args)` returns on each rank; failures are raised together, since one
        is the cause of the others."""
        self._runs += 1
        for pipe in self._pipes[:ranks]:
            pipe.send((task, self._runs, ranks, args))
        answers = []
        for rank, pipe in enumerate(self._pipes[:ranks]):
            if not pipe.poll(PATIENCE.total_seconds()):
                raise TimeoutError(f"rank {rank} of {ranks} does not answer")
            answers.append(pipe.recv())
        failures = [answer for ok, answer in answers if not ok]
        if failures:
            raise AssertionError("\n".join(failures))
        return [answer for _, answer in answers]

    @contextmanager
    def halting(self, rank: int) -> Iterator[None]:
        """Meanwhile a rank stands still half of the time, as on a crowded machine."""
        over, process = threading.Event(), psutil.Process(self._processes[rank].pid)

        def halt() -> None:
            while not over.wait(0.005):
                process.suspend()
                time.sleep(0.01)
                process.resume()

        thread = threading.Thread(target=halt)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._folder.cleanup()


def _work(rank: int, size: int, path: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    from mochi.parallel.world import World

    torch.set_num_threads(1)
    store = dist.FileStore(path, size)
    while True:
        task, run, ranks, args = pipe.recv()
        prefixed = dist.PrefixStore(str(run), store)
        try:
            world = World(prefixed, rank, ranks, torch.device("cpu"), PATIENCE)
            pipe.send((True, task(world, *args)))
        except BaseException:
            pipe.send((False, f"rank {rank}:\n{traceback.format_exc()}"))
