"""The thread that trains: one training after the other, each step of it a process of its own.

`mochi prepare` and `mochi finetune` go on where they were stopped, so a training survives the
death of the process, of the server and of the machine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from mochi.core.errors import MochiError, OutputError
from mochi.serving.runner.protocol import ModelEntry
from mochi.serving.store.database import DatabaseError
from mochi.serving.trainings.archive import ArchiveError, Limits, unpack
from mochi.serving.trainings.book import Book, Training
from mochi.serving.trainings.shared import Shared

log = structlog.get_logger()
COMMAND = (sys.executable, "-m", "mochi")
_LOOK_SECONDS = 1.0
_STOP_SECONDS = 20.0
_MOST_ATTEMPTS = 3
_STOPPED_BY_SIGNAL = range(128, 160)


class StoppedError(Exception):
    """The server stops, or the training was cancelled."""


class DiedError(Exception):
    """A process ended by a signal; the training may be tried again."""


class Trainers:
    """Runs what is in the book.

    Args:
        book: of trainings.
        entries: the models, by name.
        device: where trainings run.
        limits: of archives.
        on_done: told about each adapter that is ready.
        shared: where other servers find adapters, if there may be any.
    """

    def __init__(
        self,
        book: Book,
        entries: Mapping[str, ModelEntry],
        device: str,
        limits: Limits,
        on_done: Callable[[Training], None],
        shared: Shared | None,
    ):
        self.book, self._entries, self._device = book, entries, device
        self._limits, self._on_done, self._shared = limits, on_done, shared
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="trainings")

    def start(self) -> None:
        """Begin, with what an earlier run of the server left."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do, or to stop."""
        self._wake.set()

    def stop(self) -> None:
        """End the process that runs; its training goes on when the server is started again."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            self.book.tidy()
            waiting = self.book.unfinished()
            if not waiting:
                self._wake.wait()
                continue
            try:
                self._train(waiting[0])
            except StoppedError:
                continue
            except (OutputError, DatabaseError, OSError) as error:
                log.warning("training_waits", id=waiting[0].id, reason=str(error))
                self._stopping.wait(10 * _LOOK_SECONDS)
            except Exception:
                log.exception("training_failed", id=waiting[0].id)
                self.book.end(waiting[0].id, "failed", error="an error of the server's")

    def _train(self, training: Training) -> None:
        attempts = training.attempts + 1
        begun = {"started_at": training.started_at or time.time(), "attempts": attempts}
        if self.book.change(training.id, status="processing", **begun) is None:
            return
        log.info("training_started", id=training.id, attempt=attempts)
        try:
            self._unpack(training)
            self._prepare(training)
            self._finetune(training)
            if self._shared is not None:
                self._shared.share(self.book, training)
        except DiedError as error:
            self.book.say(training.id, str(error))
            if attempts >= _MOST_ATTEMPTS:
                self.book.end(training.id, "failed", error=f"{error}, {attempts} times")
            return
        except MochiError as error:
            if isinstance(error, (OutputError, DatabaseError)):
                raise
            self.book.end(training.id, "failed", error=str(error))
            return
        done = self.book.end(training.id, "succeeded")
        if done is not None:
            self._on_done(done)
            log.info("training_done", id=training.id)
        elif self._shared is not None:  # cancelled at the last moment
            self._shared.withdraw(training)

    def _unpack(self, training: Training) -> None:
        folder = self.book.folder(training.id)
        if (folder / "clips").is_dir():
            return
        self.book.change(training.id, phase="unpack")
        part = folder / "clips.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            count = unpack(
                folder / "clips.zip", part, self._limits, lambda: self._check(training.id)
            )
        except ArchiveError as error:
            raise ArchiveError(f"the archive {error}") from error
        self.book.say(training.id, f"{count} files unpacked")
        part.rename(folder / "clips")

    def _prepare(self, training: Training) -> None:
        folder, given = self.book.folder(training.id), training.input
        if (folder / "prepared").exists():
            return
        words = ["prepare", "clips", "--output", "data"]
        said = ((name, given.get(name)) for name in ("frames", "take", "caption"))
        words += [f"--{name}={value}" for name, value in said if value is not None]
        if given.get("width") and given.get("height"):
            words += ["--size", f"{given['width']}x{given['height']}"]
        words += ["--scenes"] if given.get("scenes") else []
        words += ["--upscale"] if given.get("upscale") else []
        words += ["--model", self._source(training), "--device", self._device]
        self._run(training, "prepare", words)
        (folder / "prepared").touch()

    def _finetune(self, training: Training) -> None:
        folder = self.book.folder(training.id)
        text = config_text(training, self._source(training))
        (folder / "finetune.toml").write_text(text, encoding="utf-8")
        self._run(training, "train", ["finetune", "finetune.toml", "--device", self._device])

    def _source(self, training: Training) -> str:
        """The model; as a whole path, because the processes work elsewhere."""
        source = self._entries[training.model].source
        path = Path(source).expanduser()
        return str(path.resolve()) if path.exists() else source

    def _run(self, training: Training, phase: str, words: Sequence[str]) -> None:
        """One process to its end; its lines go to the log.

        Raises:
            MochiError: it ended with an error of its own; the last line it said.
            DiedError: a signal ended it.
            StoppedError: we did.
        """
        folder = self.book.folder(training.id)
        self.book.change(training.id, phase=phase)
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is the server's to handle
        )
        last: list[str] = []
        reader = threading.Thread(target=self._listen, args=(training.id, process, last))
        reader.start()
        try:
            while process.poll() is None:
                self._check(training.id)
                self._note_step(training.id)
                self._wake.wait(_LOOK_SECONDS)
                self._wake.clear()
        finally:
            _end(process)
            reader.join()
        self._note_step(training.id)
        if process.returncode < 0 or process.returncode in _STOPPED_BY_SIGNAL:
            raise DiedError(f"{phase} was ended by a signal")
        if process.returncode:
            line = (last or [f"{phase} failed"])[-1]
            raise MochiError(line.removeprefix("mochi: ").removeprefix("error: "))

    def _listen(self, training_id: str, process: subprocess.Popen[str], last: list[str]) -> None:
        assert process.stdout is not None
        place = f"{self.book.folder(training_id)}/"
        with process.stdout as lines:
            for line in lines:
                shown = line.replace(place, "").rstrip("\n")  # where we keep it is our business
                last[:] = [shown]
                self.book.say(training_id, shown)

    def _check(self, training_id: str) -> None:
        if self._stopping.is_set() or training_id not in {it.id for it in self.book.unfinished()}:
            raise StoppedError

    def _note_step(self, training_id: str) -> None:
        step = last_step(self.book.folder(training_id) / "run" / "history.jsonl")
        known = {it.id: it.step for it in self.book.unfinished()}
        if step and step != known.get(training_id):
            self.book.change(training_id, step=step)


def last_step(history: Path) -> int:
    """The step in the last whole line of a training's history that has one; 0 where none has."""
    try:
        with history.open("rb") as file:
            file.seek(max(0, history.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            row: dict[str, Any] = json.loads(line)
            return int(row["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def config_text(training: Training, source: str) -> str:
    """The config file of a training; JSON's strings, numbers and lists are TOML's too."""
    given = training.input
    sections: dict[str, dict[str, Any]] = {
        "model": {"name": source},
        "data": {"path": "data", "caption_dropout": given["caption_dropout"]},
        "lora": {
            "rank": given["rank"],
            "alpha": float(given["alpha"] or given["rank"]),
            "layers": list(given["layers"]),
        },
        "optimiser": {
            "lr": given["lr"],
            "warmup_steps": min(200, given["steps"] // 10),
        },
        "training": {"steps": given["steps"], "batch": given["batch"], "seed": given["seed"]},
        "saving": {"folder": "run", "every": max(1, min(100, given["steps"] // 4))},
    }
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [
            f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()
        ]
    return "\n".join(lines) + "\n"


def _end(process: subprocess.Popen[str]) -> None:
    """Politely, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
