"""Where downloaded files go: the cache that all Hugging Face programs share, or a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from mochi.weights.hub_files import RemoteFile, hash_for

StrPath = str | os.PathLike[str]

_OWN = ".mochi"
_READ_BYTES = 1 << 22
RECORD = PurePosixPath(_OWN, "download.json")


class Place(Protocol):
    """A destination.

    Attributes:
        folder: what a user of the model is given.
    """

    folder: Path

    def has(self, file: RemoteFile) -> bool:
        """Whether this very content is there, checked when it arrived."""
        ...

    def partial(self, file: RemoteFile) -> Path:
        """The file to write to; another content has another one."""
        ...

    def lock(self, file: RemoteFile) -> Path:
        """The file to lock while writing."""
        ...

    def adopt(self, file: RemoteFile) -> bool:
        """Take the content where it is there under no or another name; whether that worked."""
        ...

    def keep(self, file: RemoteFile) -> None:
        """Put a complete and checked partial file in its place."""
        ...

    def finish(self, commit: str) -> None:
        """All files are there."""
        ...


class FolderPlace:
    """A folder of the user's, with a record of checksums in `.mochi/download.json`."""

    def __init__(self, folder: StrPath, repo_id: str):
        self.folder = Path(folder)
        self._repo_id = repo_id
        self._files = dict(read_record(self.folder))

    def has(self, file: RemoteFile) -> bool:
        """Whether the record knows this content and a file of its size is there."""
        path = self.folder / file.name
        self._files |= read_record(self.folder)  # another run may have added to it
        known = self._files.get(file.name) == file.checksum
        return known and path.is_file() and path.stat().st_size == file.size

    def partial(self, file: RemoteFile) -> Path:
        """Below `.mochi/`, named by checksum."""
        return self.folder / _OWN / f"{file.checksum}.part"

    def lock(self, file: RemoteFile) -> Path:
        """Beside the partial file."""
        return self.folder / _OWN / f"{file.checksum}.lock"

    def adopt(self, file: RemoteFile) -> bool:
        """Check a file that came here in another way, and note it."""
        path = self.folder / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        if file_checksum(path, file.checksum) != file.checksum:
            return False
        self._files[file.name] = file.checksum
        self._write_record({})
        return True

    def keep(self, file: RemoteFile) -> None:
        """Rename, and note the checksum, so that an interrupted run knows it next time."""
        path = self.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.partial(file), path)
        self._files[file.name] = file.checksum
        self._write_record({})

    def finish(self, commit: str) -> None:
        """Note where it all came from."""
        self._write_record({"repo_id": self._repo_id, "commit": commit})

    def _write_record(self, source: Mapping[str, str]) -> None:
        path = self.folder / RECORD
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**source, "files": self._files}, indent=1), "utf-8")
        os.replace(temporary, path)


class CachePlace:
    """The standard cache: contents in `blobs/` by checksum, names in `snapshots/COMMIT/`."""

    def __init__(self, cache: StrPath, repo_id: str, commit: str, revision: str):
        self._root = Path(cache) / ("models--" + repo_id.replace("/", "--"))
        self._revision = revision
        self.folder = self._root / "snapshots" / commit

    def has(self, file: RemoteFile) -> bool:
        """Whether the snapshot names it and its content has the right size."""
        path = self.folder / file.name
        return path.is_file() and path.stat().st_size == file.size

    def partial(self, file: RemoteFile) -> Path:
        """Beside the blob."""
        return self._root / "blobs" / f"{file.checksum}.incomplete"

    def lock(self, file: RemoteFile) -> Path:
        """Where huggingface_hub locks, so that it and we never fetch the same blob at once."""
        return self._root.parent / ".locks" / self._root.name / f"{file.checksum}.lock"

    def adopt(self, file: RemoteFile) -> bool:
        """Name a blob that another revision brought here."""
        blob = self._root / "blobs" / file.checksum
        if not blob.is_file() or blob.stat().st_size != file.size:
            return False
        self._name(file, blob)
        return True

    def keep(self, file: RemoteFile) -> None:
        """Make it a blob, and name it in the snapshot."""
        blob = self._root / "blobs" / file.checksum
        os.replace(self.partial(file), blob)
        self._name(file, blob)

    def _name(self, file: RemoteFile, blob: Path) -> None:
        path = self.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            path.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:  # a filesystem without links: the cache allows a plain file
            shutil.move(blob, path)

    def finish(self, commit: str) -> None:
        """Note which commit the branch or tag stood for."""
        if self._revision == commit:
            return
        path = self._root / "refs" / self._revision
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(commit, "utf-8")
        os.replace(temporary, path)


def file_checksum(path: Path, like: str, on_bytes: Callable[[int], None] | None = None) -> str:
    """The checksum of a file, of the kind of `like`; `on_bytes` hears the size of each block."""
    digest = hash_for(like, path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            if on_bytes is not None:
                on_bytes(len(block))
    return digest.hexdigest()


def read_record(folder: StrPath) -> dict[str, str]:
    """Name to checksum of the files that were downloaded into a folder; empty where unknown.

    In a snapshot of the cache the names of the blobs are the checksums.
    """
    root = Path(folder)
    try:
        record = json.loads((root / RECORD).read_text("utf-8"))
        return {str(name): str(checksum) for name, checksum in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _blob_names(root)


def _blob_names(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink() and not path.is_dir():
            blob = Path(os.readlink(path))
            if blob.parent.name == "blobs" and len(blob.name) in (40, 64):
                found[path.relative_to(root).as_posix()] = blob.name
    return found
