"""A line in the shape of tqdm's bars: clients of the predictions dialect read progress off it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WIDTH = 10


def bar(step: Mapping[str, Any]) -> str:
    """` 25%|██▌       | 4/16 [00:01<00:03,  3.90it/s]` of a `step` event."""
    done, total, each = step["step"], step["steps"], step["seconds_per_step"]
    eighths = 8 * _WIDTH * done // total
    blocks = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    rate = f"{1 / each:5.2f}it/s" if 0 < each <= 1 else f"{each:5.2f}s/it"
    spent, left = _clock(done * each), _clock(step["eta_seconds"])
    return f"{100 * done // total:3d}%|{blocks:<{_WIDTH}}| {done}/{total} [{spent}<{left}, {rate}]"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
