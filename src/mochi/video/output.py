"""Where a result goes: a name is claimed at the start and filled all at once at the end.

While a run works, its file is called `.NAME.mochi-part` beside the final name, and is locked. The
rename at the end is the only moment at which the final name changes, so nobody ever sees half a
video. The lock belongs to the process: a run that was killed leaves a part file that stops nobody,
and the next run of the same name takes it over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mochi.core.errors import OutputError

RECORD_NAME = "request.json"  # marks a folder of frames as ours, and holds its request

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file grew larger than this disk or user may hold",
    errno.EACCES: "its folder cannot be written to",
    errno.EPERM: "its folder cannot be written to",
    errno.EROFS: "its disk is read-only",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOENT: "its folder does not exist (any more)",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.ELOOP: "its path is a loop of links",
}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn what the disk refuses inside this block into one clear line.

    Raises:
        OutputError: any OSError, PyAV's included.
    """
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
        raise OutputError(f"{target}: cannot be written: {reason}") from error


@contextmanager
def claim(
    path: str | os.PathLike[str], overwrite: bool = False, *, folder: bool = False
) -> Iterator[Path]:
    """Hold a name for this run, and give a temporary path beside it to write to.

    When the block ends, what was written takes the name; when it is left by any exception,
    KeyboardInterrupt included, the temporary path vanishes and the name is as it was.

    Args:
        path: the name of the result. Its folder must exist.
        overwrite: an existing result may be replaced.
        folder: the result is a folder; the block finds it empty. Only a folder of frames that
            Mochi wrote is ever replaced, whatever `overwrite` says.

    Yields:
        The path to write to.

    Raises:
        OutputError: the name exists, cannot be written, or is being written by another run.
    """
    shown = Path(path)
    with disk_errors(shown):
        target = Path(os.path.realpath(path))  # unlike resolve(), takes a loop of links
        _check_target(target, overwrite, folder)
        part = target.with_name(f".{target.name}.mochi-part")
        lock = _lock(part, folder)
    try:
        with disk_errors(shown):
            _empty(part)
        yield part
        with disk_errors(shown):
            _publish(part, target, lock, overwrite, folder)
    finally:
        if _is_at(lock, part):  # not so after the rename: the next run may own this name by now
            _remove(part)
        os.close(lock)


def _check_target(target: Path, overwrite: bool, folder: bool) -> None:
    """Refuse a target that may not be made or replaced."""
    if not target.parent.is_dir():
        raise OutputError(f"{target}: its folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{target}: its folder {target.parent} cannot be written to")
    if not target.exists():
        return
    if folder and target.is_dir():
        _check_folder(target, overwrite)
    elif target.is_dir():
        raise OutputError(f"{target}: is a folder")
    elif folder or not target.is_file():
        raise OutputError(f"{target}: exists, and is no {'folder' if folder else 'regular file'}")
    elif not overwrite:
        raise _exists(target)


def _check_folder(target: Path, overwrite: bool) -> None:
    """A folder may be replaced when it is empty, or holds frames of ours and nothing else."""
    names = sorted(entry.name for entry in target.iterdir())
    if not names:
        return
    foreign = [name for name in names if name != RECORD_NAME and not name.endswith(".png")]
    if foreign or not is_record(target / RECORD_NAME):
        example = foreign[0] if foreign else names[0]
        raise OutputError(f"{target}: holds other files ({example}); choose a new folder")
    if not overwrite:
        raise _exists(target)


def is_record(path: Path) -> bool:
    """Whether this file is the record that Mochi leaves in a folder of frames."""
    try:
        return "mochi_request" in json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _exists(target: Path) -> OutputError:
    return OutputError(f"{target}: exists already; pass --overwrite (overwrite=True) to replace it")


def _lock(part: Path, folder: bool) -> int:
    """Open and lock the part file or folder; the descriptor holds the lock until it is closed."""
    while True:
        if folder:
            part.mkdir(exist_ok=True)
            descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        else:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _take(descriptor, part)
            if _is_at(descriptor, part):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the run before us renamed or removed it meanwhile: once more


def _take(descriptor: int, part: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        name = part.name.removeprefix(".").removesuffix(".mochi-part")
        raise OutputError(f"{part.with_name(name)}: another run is writing it") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:  # some network disks have no locks: go on without
            raise


def _is_at(descriptor: int, part: Path) -> bool:
    """Whether the open file is still the one with this name."""
    try:
        there = os.stat(part, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _publish(part: Path, target: Path, lock: int, overwrite: bool, folder: bool) -> None:
    """Give the finished part its name; on the disk first, so that a crash cannot leave a husk."""
    os.fsync(lock)
    _check_target(target, overwrite, folder)
    if not (folder and target.exists()):
        os.replace(part, target)
        return
    old = target.with_name(f".{target.name}.mochi-old")
    _remove(old)
    os.rename(target, old)
    try:
        os.rename(part, target)
    except BaseException:
        os.rename(old, target)
        raise
    _remove(old)


def _empty(part: Path) -> None:
    """Drop what a run that was killed left behind."""
    if part.is_dir():
        for entry in part.iterdir():
            _remove(entry)
    else:
        os.truncate(part, 0)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
