"""The C library's heap."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def trim() -> None:
    """Hand freed memory back to the system where the C library would keep it (glibc alone can)."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
