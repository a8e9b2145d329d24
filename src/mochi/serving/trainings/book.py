"""Trainings that were asked for, each in a folder of its own, so that none is lost.

```
DATA/trainings/ID/
    training.json   what was asked for, and how far it is; always whole
    log.txt         what prepare and finetune said
    clips.zip, clips/, data/, run/    what they work with; run/adapter is the result
```
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from mochi.serving.jobs import ENDED, Status, is_id
from mochi.video.output import disk_errors

log = structlog.get_logger()
_SHOWN_LOG_BYTES = 64 * 1024
_WORKED_WITH = (
    "clips.zip",
    "clips",
    "clips.part",
    "data",
    "run/checkpoints",
    "run/prior.safetensors",
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training. Times are seconds since 1970.

    Attributes:
        account: whose it is.
        model, version: what is trained on.
        destination: `owner/name`; the adapter is offered under the name.
        input: as it was given, with what was left out filled in.
        seq: rises with each training.
        phase: `unpack`, `prepare` or `train`, while it runs.
        attempts: how often it was begun.
    """

    id: str
    account: str
    model: str
    version: str
    destination: str
    input: Mapping[str, Any]
    seq: int = 0
    status: Status = "starting"
    phase: str | None = None
    step: int = 0
    attempts: int = 0
    error: str | None = None
    created_at: float = 0.0
    started_at: float | None = None
    completed_at: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the adapter."""
        return self.destination.partition("/")[2]

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ENDED


class Book:
    """All trainings of a server; thread safe.

    Args:
        root: the folder.
        clock: seconds since 1970.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time):
        self._root, self._clock = root, clock
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)
        self._known = {it.id: it for it in map(_read, sorted(root.glob("*/training.json"))) if it}

    def folder(self, training_id: str) -> Path:
        """Where a training works."""
        assert is_id(training_id), training_id
        return self._root / training_id

    def adapter(self, training: Training) -> Path:
        """The folder of the finished adapter."""
        return self.folder(training.id) / "run" / "adapter"

    def add(self, training: Training, bring: Callable[[Path], None]) -> Training:
        """Keep a new training; `bring` puts the archive at a path.

        Raises:
            OutputError: the disk refuses; nothing is kept.
        """
        folder = self.folder(training.id)
        try:
            with disk_errors(folder):
                folder.mkdir()
                bring(folder / "clips.zip")
            with self._lock:
                seq = 1 + max((it.seq for it in self._all), default=0)
                new = replace(training, created_at=self._clock(), seq=seq)
                self._write(new)
                self._known[new.id] = new
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return new

    def get(self, training_id: str, account: str) -> Training | None:
        """A training of this account."""
        found = self._known.get(training_id)
        return found if found is not None and found.account == account else None

    def page(self, account: str, limit: int, before: int | None = None) -> list[Training]:
        """An account's trainings, newest first; those before the one with this `seq`."""
        mine = [it for it in self._in_order() if it.account == account]
        older = [it for it in mine if before is None or it.seq < before]
        return older[::-1][:limit]

    def unfinished(self) -> list[Training]:
        """Those that wait or were running, oldest first."""
        return [it for it in self._in_order() if not it.ended]

    def succeeded(self) -> list[Training]:
        """Those whose adapters are there, oldest first."""
        return [it for it in self._in_order() if it.status == "succeeded"]

    def takes(self, name: str) -> bool:
        """Whether an adapter is, or may come to be, called so."""
        return any(it.name == name and it.status not in ("failed", "canceled") for it in self._all)

    def change(self, training_id: str, **values: Any) -> Training | None:
        """Change a training that has not ended; None where it has.

        Raises:
            OutputError: the disk refuses; nothing has changed.
        """
        with self._lock:
            found = self._known[training_id]
            if found.ended:
                return None
            changed = replace(found, **values)
            self._write(changed)
            self._known[training_id] = changed
            return changed

    def end(self, training_id: str, status: Status, **values: Any) -> Training | None:
        """End a training; None where it had ended. `tidy` removes what it worked with.

        Raises:
            OutputError: the disk refuses; nothing has changed.
        """
        now = self._clock()
        began = self._known[training_id].started_at
        metrics = {} if began is None else {"train_time": round(now - began, 3)}
        given = {"completed_at": now, "metrics": metrics, "phase": None, **values}
        return self.change(training_id, status=status, **given)

    def tidy(self) -> None:
        """Remove what ended trainings worked with; only where none of their processes runs."""
        for training in self._all:
            for name in _WORKED_WITH if training.ended else ():
                left = self.folder(training.id) / name
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)

    def say(self, training_id: str, line: str) -> None:
        """One more line in a training's log; a full disk loses it."""
        try:
            with (self.folder(training_id) / "log.txt").open("a", encoding="utf-8") as file:
                file.write(line.rstrip("\n") + "\n")
        except OSError as error:
            log.warning("training_line_lost", id=training_id, reason=str(error))

    def log(self, training_id: str) -> str:
        """The end of a training's log."""
        path = self.folder(training_id) / "log.txt"
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _SHOWN_LOG_BYTES))
            return file.read().decode("utf-8", "replace")

    @property
    def _all(self) -> list[Training]:
        return list(self._known.values())

    def _in_order(self) -> list[Training]:
        return sorted(self._all, key=lambda it: it.seq)

    def _write(self, training: Training) -> None:
        path = self.folder(training.id) / "training.json"
        part = path.with_name(".training.json.part")
        with disk_errors(path):
            with part.open("w", encoding="utf-8") as file:
                json.dump(asdict(training), file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)


def _read(path: Path) -> Training | None:
    """A training from its file; one that cannot be read is left alone, and said in the log."""
    try:
        return Training(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        log.warning("training_unreadable", path=path.name, reason=str(error))
        return None
