"""The checkpoints of one training: written whole or not at all, the last few kept, each for its
own config and base only."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from mochi.core.errors import OutputError, TrainingError, WeightsError
from mochi.training.checkpoint import load_checkpoint, save_checkpoint

VERSION = 1
_NAME = re.compile(r"step-(\d{8})\.pt")
_SHOWN = 3


class Checkpoints:
    """`step-00000100.pt` and so on in one folder.

    Args:
        folder: where; made when the first is written.
        identity: what a checkpoint must have been made with, as plain values.
        keep: how many stay.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], keep: int):
        self.folder = folder
        self.keep = keep
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write one, then let the oldest go.

        Raises:
            OutputError: the disk is full or refuses; the checkpoints before are untouched.
        """
        path = self.folder / f"step-{step:08d}.pt"
        whole = {**state, "version": VERSION, "step": step, "identity": json.dumps(self._identity)}
        try:
            save_checkpoint(path, whole)
        except (OSError, RuntimeError) as error:  # torch's writer wraps the system's errors
            last = max(self._found(), default=None)
            stays = f"the one of step {last} is whole" if last else "there is none before"
            said = str(error).splitlines()[0]
            raise OutputError(f"{path} cannot be written ({said}); {stays}") from error
        for old in sorted(self._found())[: -self.keep]:
            (self.folder / f"step-{old:08d}.pt").unlink(missing_ok=True)
        return path

    def last(self, tell: Callable[[str], None] = lambda message: None) -> dict[str, Any] | None:
        """The newest that can be read, or None where there is none.

        Args:
            tell: told of one that is damaged, in whose place the one before is taken.

        Raises:
            WeightsError: it was made with another config or base, or none can be read.
        """
        damaged: WeightsError | None = None
        for step in sorted(self._found(), reverse=True):
            path = self.folder / f"step-{step:08d}.pt"
            try:
                state = load_checkpoint(path)
            except WeightsError as error:
                damaged = error
                tell(f"{error}; going back to the one before")
                continue
            assert state is not None
            self._check(state, path)
            return state
        if damaged is not None:
            raise damaged
        return None

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        for partial in self.folder.glob("step-*.part"):
            partial.unlink(missing_ok=True)

    def _found(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return [int(name.group(1)) for name in names if name]

    def _check(self, state: Mapping[str, Any], path: Path) -> None:
        if state.get("version") != VERSION:
            raise WeightsError(
                f"is of version {state.get('version')}, and {VERSION} is read here", path
            )
        then: dict[str, Any] = json.loads(state["identity"])
        if then != self._identity:
            changed = list(_differences(then, self._identity, ""))
            more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            raise WeightsError(
                f"was made with another config or base: {'; '.join(changed[:_SHOWN])}{more}. "
                "Put that back, or choose another saving.folder",
                path,
            )


def _differences(then: Any, now: Any, name: str) -> list[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        found = []
        for key in sorted({*then, *now}):
            inner = f"{name}.{key}" if name else key
            found += _differences(then.get(key), now.get(key), inner)
        return found
    return [] if then == now else [f"{name} was {then!r} and is {now!r}"]


class FolderLock:
    """Keeps a second training out of a folder; the system lifts it when the process ends, however.

    Raises:
        TrainingError: another process has it.
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = open(folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error
        try:
            _lock(self._file.fileno())
        except OSError:
            self._file.close()
            raise TrainingError(
                f"{folder} is being written by another training; wait for it, or choose another "
                "saving.folder"
            ) from None

    def release(self) -> None:
        """Let others in."""
        self._file.close()


def _lock(handle: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
