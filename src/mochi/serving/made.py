"""What a runner leaves when a video is done: a note beside it, so that no video is made twice.

The note appears whole, as the runner's last act before it says so to its server. If the server or
the runner dies between that and the end of the job in the queue, the note is found, and the video
is taken as it is.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mochi.core.errors import OutputError

_SUFFIX = ".done"
_GONE = "gone-"


@dataclass(frozen=True)
class Made:
    """A video that is done.

    Attributes:
        path: where it is, or was before it was stored; its stem is the file's id.
        facts: what the runner says of it.
    """

    job_id: str
    path: Path
    facts: Mapping[str, Any]


def leave_note(path: Path, job_id: str, facts: Mapping[str, Any]) -> None:
    """Say that the video at `path` is done.

    Raises:
        OutputError: the disk does not take it.
    """
    note = path.with_suffix(_SUFFIX)
    part = note.with_suffix(".part")
    try:
        part.write_text(json.dumps({"job": job_id, "name": path.name, "facts": facts}))
        os.replace(part, note)
    except OSError as error:
        raise OutputError(f"output cannot be stored: {error.strerror or error}") from error


def read_note(path: Path) -> Made | None:
    """What was said of the video at `path`; None where nothing was."""
    try:
        note = json.loads(path.with_suffix(_SUFFIX).read_text())
    except FileNotFoundError:
        return None
    return Made(note["job"], path.with_name(note["name"]), note["facts"])


def forget(path: Path) -> None:
    """Remove a video, its note, and what a runner that died had begun to write."""
    for left in path.parent.glob(f"*{path.stem}*"):
        left.unlink(missing_ok=True)


def new_work(root: Path) -> tuple[Path, list[Path]]:
    """A folder for what this process makes, and those of earlier processes.

    The earlier ones have been renamed: a runner that outlives its server by a moment can neither
    finish a video there nor leave a note, so what is found in them is all that there will be.
    """
    root.mkdir(exist_ok=True)
    gone = []
    for left in sorted(root.iterdir()):
        if not left.is_dir():
            left.unlink()
            continue
        place = left
        if not left.name.startswith(_GONE):
            place = left.with_name(f"{_GONE}{left.name}")
            left.rename(place)
        gone.append(place)
    work = root / secrets.token_hex(8)
    work.mkdir()
    return work, gone


def found_in(folders: Sequence[Path]) -> list[Made]:
    """The videos that were done in these folders."""
    notes = [note for folder in folders for note in sorted(folder.glob(f"*{_SUFFIX}"))]
    return [made for note in notes if (made := read_note(note)) is not None]


def remove(folders: Sequence[Path]) -> None:
    """Remove folders of earlier processes; what cannot be removed goes at the next start."""
    for folder in folders:
        with suppress(OSError):
            shutil.rmtree(folder)
