"""Pages of mapped files: fetched ahead of their use, given back behind it.

A weight that is mapped from a file is in memory only where somebody looked at it. These functions
let a program look ahead and forget again, so that a model of 20 GB passes through a process of a
few. Only clean pages of files are ever given back; a page that was written to belongs to the
process and stays. Where the system does not say which is which (anything but Linux), nothing is
given back by hand: it may take clean pages at any time by itself.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
from torch import Tensor

_PAGE = mmap.PAGESIZE
_PAGEMAP = "/proc/self/pagemap"
_WILL_NEED, _DO_NOT_NEED, _POPULATE_READ = 3, 4, 22  # Linux's numbers of the advice
_FILE_PAGE = np.uint64(1 << 61)  # Linux, admin-guide/mm/pagemap: a page of a file, not our own
_PRESENT_OR_SWAPPED = np.uint64(3 << 62)
_ENTRY_BYTES = 8

Span = tuple[int, int]
"""First address and the one behind the last."""


def fetch(tensors: Iterable[Tensor]) -> None:
    """Bring the data of CPU tensors into memory, and return when it is there.

    Raises nothing: what cannot be fetched ahead comes when it is used.
    """
    for span in spans(tensors):
        _advise(span, _WILL_NEED)  # large reads that overlap ...
        _advise(span, _POPULATE_READ)  # ... and are waited for (Linux 5.14)


def drop(tensors: Iterable[Tensor]) -> int:
    """Give back the pages behind CPU tensors that are clean copies of a file.

    The tensors stay valid: the next look reads the file again, or the system's cache of it.

    Returns:
        Bytes of the ranges that were given back, resident or not.
    """
    done = 0
    for span in spans(tensors):
        if _is_clean(span) and _advise(span, _DO_NOT_NEED):
            done += span[1] - span[0]
    return done


def cached_bytes(path: Path) -> int:
    """How much of a file is in the system's cache; 0 where the system does not tell."""
    ask = _function("mincore")
    size = path.stat().st_size
    if ask is None or not size:
        return 0
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    states = np.zeros(-(-size // _PAGE), dtype=np.uint8)
    start = np.frombuffer(mapped, dtype=np.uint8).ctypes.data
    if ask(start, size, states.ctypes.data) != 0:
        return 0
    return min(size, int(np.count_nonzero(states & 1)) * _PAGE)


def spans(tensors: Iterable[Tensor]) -> list[Span]:
    """The page-aligned address ranges of CPU tensors, neighbours joined, in ascending order."""
    found: list[Span] = []
    for start, end in sorted(_span(tensor) for tensor in tensors if _has_memory(tensor)):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _has_memory(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.numel() > 0


def _span(tensor: Tensor) -> Span:
    start = tensor.data_ptr()
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    end = start + (last + 1) * tensor.element_size()
    return start // _PAGE * _PAGE, -(-end // _PAGE) * _PAGE


def _is_clean(span: Span) -> bool:
    """Whether every page of a range that this process holds is an unwritten page of a file."""
    start, end = (address // _PAGE * _ENTRY_BYTES for address in span)
    try:
        with open(_PAGEMAP, "rb", buffering=0) as pagemap:
            pagemap.seek(start)
            raw = pagemap.read(end - start)
    except OSError:
        return False
    entries = np.frombuffer(raw, dtype=np.uint64)
    if len(raw) != end - start:
        return False
    held = entries[(entries & _PRESENT_OR_SWAPPED) != 0]
    return bool(np.all(held & _FILE_PAGE))


def _advise(span: Span, advice: int) -> bool:
    advise = _function("madvise")
    return advise is not None and advise(span[0], span[1] - span[0], advice) == 0


@cache
def _function(name: str) -> Callable[[int, int, int], int] | None:
    """The C library's own: unlike Python's it lets other threads run meanwhile."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), name)
    third = ctypes.c_int if name == "madvise" else ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, third]
    function.restype = ctypes.c_int
    return lambda start, length, more: int(function(start, length, more))
