"""Jobs to enqueue."""

from typing import Any

from mochi.serving.jobs import NewJob

MODEL = "genmoai/mochi-1"
REQUEST = {
    "prompt": "a red circle",
    "frames": 7,
    "height": 32,
    "width": 32,
    "steps": 4,
    "guidance": 2.0,
    "seed": 1,
}


def new_job(**changes: Any) -> NewJob:
    fields: dict[str, Any] = {
        "account": "alice",
        "model": MODEL,
        "version": "0" * 64,
        "input": {"prompt": "a red circle"},
        "request": REQUEST,
    }
    return NewJob(**fields | changes)
