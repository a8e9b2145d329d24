"""Trained adapters on several servers: whichever trained one, all offer it, and any can run it.

What is known of an adapter lies in the database, and its bytes where the videos lie, under the id
of its training. A runner that was not told of an adapter fetches it for the first job that asks.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from mochi.core.errors import RequestError
from mochi.serving.blobs import Blobs
from mochi.serving.jobs import Job
from mochi.serving.runner.protocol import LoraEntry, RunFailedError, Runner
from mochi.serving.shelf import patiently
from mochi.serving.store.adapters import Adapters, SharedAdapter
from mochi.serving.trainings.book import Book, Training
from mochi.video.output import disk_errors

_FILE = "adapter.safetensors"  # of the original's flavour, in the folder that a training leaves


class Shared:
    """The adapters of all servers on one database.

    Args:
        adapters: what is known of them.
        blobs: where their bytes lie.
        folder: for those that are fetched.
    """

    def __init__(self, adapters: Adapters, blobs: Blobs, folder: Path):
        self._adapters, self._blobs, self._folder = adapters, blobs, folder
        self._lock = threading.Lock()

    def all(self) -> dict[str, SharedAdapter]:
        """All of them, by name, oldest first."""
        return self._adapters.all()

    def share(self, book: Book, training: Training) -> None:
        """Give all servers what a training made; again is well.

        Raises:
            RequestError: another training has its name.
            OutputError: the bytes cannot be kept.
        """
        copy = self._folder / f"{training.id}.adapter"
        try:
            if self._blobs.size(training.id) is None:
                with disk_errors(copy):
                    shutil.copyfile(book.adapter(training) / _FILE, copy)
                self._blobs.put(training.id, copy)
        finally:
            copy.unlink(missing_ok=True)
        if not self._adapters.add(SharedAdapter(training.name, training.model, training.id)):
            self._blobs.delete(training.id)
            raise RequestError("destination", training.name, "is another adapter's by now")

    def withdraw(self, training: Training) -> None:
        """Nobody offers it any longer."""
        self._adapters.remove(training.id)
        self._blobs.delete(training.id)

    def bring(self, runner: Runner, job: Job) -> None:
        """Tell a runner of the adapters that a job asks for.

        Raises:
            RunFailedError: one is neither in this server's configuration nor among the trained.
            OutputError: one cannot be fetched now.
            DatabaseError: the database was away for long.
        """
        for name, _ in job.request.get("loras", ()):
            with self._lock:  # jobs of one batch ask at once
                if not runner.has_lora(job.model, name):
                    runner.offer(job.model, LoraEntry(name, str(self._fetched(job, name))))

    def _fetched(self, job: Job, name: str) -> Path:
        found = patiently(job.id, self._adapters.all).get(name)
        if found is not None and found.model == job.model:
            path = self._folder / f"{found.key}.safetensors"
            with disk_errors(path):
                if self._copied(found.key, path):
                    return path
        raise RunFailedError("bad_weights", f"the adapter {name} is not there any more")

    def _copied(self, key: str, path: Path) -> bool:
        size, part = self._blobs.size(key), path.with_suffix(".part")
        if size is None:
            return False
        with part.open("wb") as file:
            for piece in self._blobs.read(key, 0, size):
                file.write(piece)
        os.replace(part, path)
        return True
