"""Where bytes lie that are too large for a table: a folder, or a bucket through fsspec.

Keys are ours (an id, perhaps with `.variant` behind it); nothing from a request ever becomes one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from mochi.core.errors import OutputError, RequestError

CHUNK_BYTES = 256 * 1024
_KEY = re.compile(r"[a-z2-7]{26}(\.[a-z_]{1,16})?")


class Blobs(Protocol):
    """Bytes by key. Thread safe; a key is whole or not there."""

    def put(self, key: str, path: Path) -> None:
        """Keep the content of a file, which goes away.

        Raises:
            OutputError: it cannot be kept; nothing is there.
        """

    def size(self, key: str) -> int | None:
        """Bytes under a key; None where there is nothing."""

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes from `start` to before `stop`, in pieces."""

    def delete(self, key: str) -> None:
        """Remove a key and its variants (`key.*`); those that are not there are gone already."""

    def keys(self) -> list[str]:
        """Every key."""

    def check(self) -> None:
        """Raise OutputError where nothing could be put."""


class FolderBlobs:
    """Files in a folder, in 32 subfolders by the first letter."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, path: Path) -> None:
        """Keep the content of a file, which goes away."""
        target = self._path(key)
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(exist_ok=True)
            part.unlink(missing_ok=True)
            _copy(path, part)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())  # a row will promise that it is there
            os.replace(part, target)
            path.unlink()  # the last step: whoever dies before it can begin again
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise OutputError(f"output cannot be stored: {error.strerror or error}") from error

    def size(self, key: str) -> int | None:
        """Bytes under a key; None where there is nothing."""
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes from `start` to before `stop`, in pieces."""
        with self._path(key).open("rb") as stream:
            stream.seek(start)
            while start < stop and (piece := stream.read(min(CHUNK_BYTES, stop - start))):
                start += len(piece)
                yield piece

    def delete(self, key: str) -> None:
        """Remove a key and its variants."""
        path = self._path(key)
        for found in [path, *path.parent.glob(f"{path.name}.*")]:
            found.unlink(missing_ok=True)

    def keys(self) -> list[str]:
        """Every key."""
        return [path.name for path in self._folder.glob("?/*") if _KEY.fullmatch(path.name)]

    def check(self) -> None:
        """Raise OutputError where nothing could be put."""
        probe = self._folder / f".probe-{os.getpid()}"
        try:
            probe.write_bytes(b"\0" * 4096)
            probe.unlink()
        except OSError as error:
            raise OutputError(f"the data folder refuses: {error.strerror or error}") from error

    def _path(self, key: str) -> Path:
        assert _KEY.fullmatch(key), key
        return self._folder / key[0] / key


class FsspecBlobs:
    """Objects below a URL that fsspec understands: `s3://bucket/folder`, `gs://...`, `memory://`."""

    def __init__(self, url: str, **options: Any):
        import fsspec

        try:
            self._files, self._root = fsspec.core.url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise RequestError("blobs", url, f"cannot be opened: {error}") from error

    def put(self, key: str, path: Path) -> None:
        """Keep the content of a file, which goes away."""
        target = self._path(key)
        try:
            self._files.makedirs(self._files._parent(target), exist_ok=True)
            self._files.put_file(str(path), f"{target}.part")
            self._files.mv(f"{target}.part", target)
            path.unlink()
        except OSError as error:
            with suppress(OSError):
                self._files.rm(f"{target}.part")
            raise OutputError(f"output cannot be stored: {error}") from error

    def size(self, key: str) -> int | None:
        """Bytes under a key; None where there is nothing."""
        try:
            return int(self._files.size(self._path(key)))
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes from `start` to before `stop`, in pieces."""
        with self._files.open(self._path(key), "rb") as stream:
            stream.seek(start)
            while start < stop and (piece := stream.read(min(CHUNK_BYTES, stop - start))):
                start += len(piece)
                yield piece

    def delete(self, key: str) -> None:
        """Remove a key and its variants."""
        self._files.invalidate_cache()
        for path in self._files.glob(f"{self._path(key)}*"):
            with suppress(FileNotFoundError):
                self._files.rm(path)

    def keys(self) -> list[str]:
        """Every key."""
        self._files.invalidate_cache()
        names = (path.rsplit("/", 1)[-1] for path in self._files.glob(f"{self._root}/?/*"))
        return [name for name in names if _KEY.fullmatch(name)]

    def check(self) -> None:
        """Raise OutputError where nothing could be put."""
        try:
            self._files.pipe_file(f"{self._root}/probe", b"")
        except OSError as error:
            raise OutputError(f"the store of files refuses: {error}") from error

    def _path(self, key: str) -> str:
        assert _KEY.fullmatch(key), key
        return f"{self._root}/{key[0]}/{key}"


def open_blobs(place: str | Path) -> Blobs:
    """A folder, or a URL with `://` for fsspec.

    Raises:
        RequestError: fsspec does not know the URL, or lacks the package for it.
    """
    if isinstance(place, str) and "://" in place:
        return FsspecBlobs(place)
    return FolderBlobs(Path(place))


def _copy(source: Path, target: Path) -> None:
    """A second name for the same bytes where the file system has that, else a copy."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
