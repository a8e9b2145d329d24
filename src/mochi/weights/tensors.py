"""Tensors in files, opened lazily: a file is mapped into memory, a tensor is a view of the map.

The map is private (copy-on-write). A parameter that is trained or patched in place gets pages of
its own at the first write; the file never changes. What is only read stays in the page cache,
which the system can drop and share: no second copy.

As with every map, a program that shortens the file in place meanwhile takes the memory away from
under us. Replace checkpoints by renaming, as everything here does.
"""

from __future__ import annotations

import mmap
import os
import platform
import stat
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from mochi.core.errors import WeightsError
from mochi.weights.header import Header, TensorInfo, read_header

StrPath = str | os.PathLike[str]

# Python names MAP_NORESERVE from 3.13 on. Without it Linux refuses to map a file larger than the
# memory privately: it would count every page as one that may be copied.
_USUAL_LINUX = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64", "riscv64")
_NO_RESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if _USUAL_LINUX else 0)


class TensorFile:
    """One .safetensors file: its header checked at once, its tensors mapped on demand.

    Attributes:
        path: the file.
        header: names, dtypes, shapes, places, and the file's own metadata.
        file_bytes: its size.

    Raises:
        WeightsError: no such file, unreadable, no regular file, truncated, not safetensors.
    """

    def __init__(self, path: StrPath):
        self.path = Path(path)
        try:
            with open_regular(self.path) as file:
                self.file_bytes = os.fstat(file.fileno()).st_size
                self.header: Header = read_header(file, self.file_bytes)
                self._map = map_privately(file, self.file_bytes)
        except OSError as error:
            raise WeightsError(f"cannot be read: {error.strerror or error}", self.path) from error
        except WeightsError as error:
            raise WeightsError(str(error), self.path) from None

    @property
    def metadata(self) -> Mapping[str, str]:
        """The strings that whoever wrote the file put beside the tensors."""
        return self.header.metadata

    def names(self) -> list[str]:
        """All names, in the order of the header."""
        return list(self.header.tensors)

    def info(self, name: str) -> TensorInfo:
        """Dtype, shape and place of a tensor.

        Raises:
            WeightsError: no tensor has this name.
        """
        try:
            return self.header.tensors[name]
        except KeyError:
            raise WeightsError(f"holds no tensor {name!r}", self.path) from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without touching its data."""
        return self.info(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of a tensor, without touching its data."""
        return self.info(name).dtype

    def tensor(self, name: str) -> Tensor:
        """A tensor that shares the map. It may be written to: the file will not change.

        It stays valid when this object is gone. Only data that the file does not align to its
        dtype are copied.
        """
        info = self.info(name)
        count = prod(info.shape)
        if not count:
            return torch.empty(info.shape, dtype=info.dtype)
        if info.start % info.dtype.itemsize:
            raw = torch.frombuffer(
                self._map, dtype=torch.uint8, count=info.end - info.start, offset=info.start
            )
            return raw.clone().view(info.dtype).view(info.shape)
        flat = torch.frombuffer(self._map, dtype=info.dtype, count=count, offset=info.start)
        return flat.view(info.shape)

    def forget(self, name: str) -> None:
        """Let go of the memory behind a tensor that was copied and that nobody holds any more."""
        info = self.info(name)
        forget_pages(self._map, info.start, info.end)


def forget_pages(mapped: mmap.mmap, start: int, end: int) -> None:
    """Let go of the whole pages between two places of a private map; they can be read again.

    What was written to them is lost: only for data that nobody holds any more.
    """
    first, last = -(-start // mmap.PAGESIZE), end // mmap.PAGESIZE
    if first < last and hasattr(mmap, "MADV_DONTNEED"):
        size = (last - first) * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, size)


def open_regular(path: Path) -> BinaryIO:
    """A file opened for reading, if it is one.

    Raises:
        WeightsError: it is a folder, a pipe or the like.
        OSError: it is not there or unreadable.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise WeightsError("is a folder, not a file of weights")
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise WeightsError("is no regular file")
    return path.open("rb")


def map_privately(file: BinaryIO, file_bytes: int) -> mmap.mmap:
    """A map of a file that may be written to without changing the file.

    Raises:
        WeightsError: there is nothing to map.
        OSError: the system refuses.
    """
    if not file_bytes:
        raise WeightsError("is empty (0 bytes)")
    if sys.platform == "win32":
        return mmap.mmap(file.fileno(), file_bytes, access=mmap.ACCESS_COPY)
    return mmap.mmap(
        file.fileno(),
        file_bytes,
        flags=mmap.MAP_PRIVATE | _NO_RESERVE,
        prot=mmap.PROT_READ | mmap.PROT_WRITE,
    )
