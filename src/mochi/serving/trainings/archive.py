"""Unpacking what somebody uploaded: nothing leaves the folder, and nothing grows without end."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mochi.core.errors import MochiError
from mochi.video.output import disk_errors

_PIECE = 1 << 20
_MOST_NAME_CHARS, _MOST_DEPTH = 200, 8
# What zipfile and zlib say of damaged archives.
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, ValueError)


class ArchiveError(MochiError):
    """An archive cannot be used; says why."""


@dataclass(frozen=True)
class Limits:
    """How much is unpacked at most."""

    files: int = 10_000
    unpacked_bytes: int = 20_000_000_000


def unpack(
    archive: Path, folder: Path, limits: Limits, check: Callable[[], object] = lambda: None
) -> int:
    """Unpack a zip file into a folder that is empty or absent; returns the number of files.

    Folders, names and sizes are checked, sizes while they grow: what the archive says of itself is
    not believed. Hidden files, and what macOS puts beside files, are passed over.

    Args:
        archive: the zip file.
        folder: where its files go.
        limits: what is refused.
        check: called between pieces; may raise, to stop.

    Raises:
        ArchiveError: it is no zip file, is damaged or encrypted, or breaks a rule.
        OutputError: the disk refuses.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = [it for it in source.infolist() if _is_wanted(it)]
            if len(members) > limits.files:
                raise ArchiveError(f"holds {len(members)} files, at most {limits.files} are taken")
            left, seen = limits.unpacked_bytes, set[str]()
            for member in members:
                path = _place(member)
                if str(path).lower() in seen:
                    raise ArchiveError(f"holds {path} twice")
                seen.add(str(path).lower())
                left -= _copy(source, member, folder / path, left, check)
    except _BROKEN as error:
        raise ArchiveError(f"is no zip file that can be read: {error}") from error
    except RuntimeError as error:  # what zipfile says of encryption, and of odd compression
        raise ArchiveError(f"cannot be unpacked: {error}") from error
    return len(members)


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    parts = member.filename.replace("\\", "/").split("/")
    is_file = parts[-1] not in ("", ".")
    return is_file and "__MACOSX" not in parts and not parts[-1].startswith(".")


def _place(member: zipfile.ZipInfo) -> PurePosixPath:
    """Where a file goes, below the folder."""
    name = member.filename.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or ":" in name or not name.isprintable():
        raise ArchiveError(f"holds a name that leads elsewhere: {name[:80]!r}")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(f"packs {name[:80]!r} in a way that is not known here; use deflate")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ArchiveError(f"holds a link: {name[:80]!r}")
    if len(path.parts) > _MOST_DEPTH or any(len(part) > _MOST_NAME_CHARS for part in path.parts):
        raise ArchiveError(f"holds a name that is too long: {name[:80]!r}")
    return path


def _copy(
    source: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    target: Path,
    left: int,
    check: Callable[[], object],
) -> int:
    """Write one file; returns its size, which is counted as it comes."""
    size = 0
    with disk_errors(target), source.open(member) as packed:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while piece := packed.read(_PIECE):
                check()
                size += len(piece)
                if size > left:
                    raise ArchiveError("is too large when it is unpacked")
                file.write(piece)
    return size
