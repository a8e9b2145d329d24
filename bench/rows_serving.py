"""Rows of serving: what a server adds to a clip, and many clients at once.

The load is pressed on a server of its own process whose runner needs no model
(`tests/serving/load.py`), so it measures the queue and the routes alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pairs import Effort, Row, alternate

sys.path.append(str(Path(__file__).resolve().parents[1]))

PROMPT = "a red circle moves left on a black background"


def rows() -> Sequence[Row]:
    """The rows."""
    return [
        Row(
            name="serving-overhead",
            what="a nano clip asked of a warm server, fetched: POST, wait, download",
            against="the same clip with generate_to in this process, warm",
            reach="under 5 % more",
            measure=_overhead,
        ),
        Row(
            name="serving-load",
            what="1,000 jobs from 50 clients, with a runner that takes no time",
            against="nothing",
            reach="0 lost, 0 doubled, p99 of GET under 50 ms, memory flat",
            measure=_load,
        ),
    ]


def _overhead(effort: Effort) -> Mapping[str, Any]:
    from tests.serving.harness import running

    import mochi
    from mochi.serving.runner.process import ProcessRunner

    settings: dict[str, Any] = {"steps": 2} if effort.tiny else {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pipe = mochi.load("nano", device="cpu")
        with (
            running(place / "data", make_runner=ProcessRunner, requests_per_minute=0) as server,
            mochi.Client(server.url) as client,
        ):

            def there() -> None:
                body = {"input": {"prompt": PROMPT, "seed": 0, **_theirs(settings)}}
                made = client.ask("POST", "/v1/predictions", body, {"Prefer": "wait"})
                assert made["status"] == "succeeded", made["error"]
                mochi.Client.job(client, made["id"]).save(place / "there.mp4", overwrite=True)

            def here() -> None:
                pipe.generate_to(place / "here.mp4", PROMPT, seed=0, overwrite=True, **settings)

            found = alternate({"server": there, "in process": here}, effort.repeats)
    more = 100 * (1 / found["ratio"]["in process"]["median"] - 1)
    return {**found, "more_percent": round(more, 1), "reached": more < 5.0}


def _theirs(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_inference_steps": settings["steps"]} if settings else {}


def _load(effort: Effort) -> Mapping[str, Any]:
    from tests.serving.load import press

    jobs, clients = (20, 4) if effort.tiny else (1000, 50)
    with tempfile.TemporaryDirectory() as folder:
        found = press(Path(folder) / "data", jobs, clients)
    good = found["ends"] == {"succeeded": jobs} and found["distinct"] == jobs
    return {**found, "reached": good and found["get_p99_ms"] < 50}
