"""Rows of the denoising loop."""

from __future__ import annotations

from collections.abc import Sequence

from pairs import Row


def rows() -> Sequence[Row]:
    """The rows."""
    return []
