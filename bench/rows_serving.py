"""Rows of serving: what a server adds to a clip, many clients at once, and servers that are killed.

The load is pressed on a server of its own process whose runner needs no model
(`tests/serving/load.py`), so it measures the queue and the routes alone. The kills are those of
`tests/serving/chaos.py`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pairs import Effort, Here, Row, alternate

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
        Row(
            name="kills",
            what="`kill -9` of server, runner or both, 200 times over a queue of 50 jobs",
            against="SQLite and PostgreSQL",
            reach="0 lost, 0 run twice to completion, 0 stuck",
            measure=_kills,
        ),
    ]


def _overhead(effort: Effort) -> Mapping[str, Any]:
    """The server, its runner and this client are three processes, as they are at people's."""
    import mochi
    from mochi.serving.client import RemoteJob

    settings: dict[str, Any] = {"steps": 2} if effort.tiny else {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pipe = mochi.load("nano", device="cpu")
        with _server(place / "data") as url, mochi.Client(url) as client:

            def there() -> None:
                body = {"input": {"prompt": PROMPT, "seed": 0, **_theirs(settings)}}
                made = client.ask("POST", "/v1/predictions", body, {"Prefer": "wait"})
                assert made["status"] == "succeeded", made["error"]
                RemoteJob(client, made).save(place / "there.mp4", overwrite=True)

            def here() -> None:
                pipe.generate_to(place / "here.mp4", PROMPT, seed=0, overwrite=True, **settings)

            found = alternate({"server": Here(there), "in process": Here(here)}, effort.repeats)
            same = (place / "there.mp4").read_bytes() == (place / "here.mp4").read_bytes()
    more = 100 * (1 / found["ratio"]["in process"]["median"] - 1)
    return {
        **found,
        "more_percent": round(more, 1),
        "same_bytes": same,
        "notes": [f"{more:.1f} % more"],
        "reached": more < 5.0 and same,
    }


@contextmanager
def _server(data: Path) -> Iterator[str]:
    words = [sys.executable, "-m", "mochi", "serve", "--port", "0", "--data", str(data)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().decode().split()[-1]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _theirs(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_inference_steps": settings["steps"]} if settings else {}


def _load(effort: Effort) -> Mapping[str, Any]:
    from tests.serving.load import is_well, press
    from tests.serving.postgres import cluster

    jobs, clients = (40, 4) if effort.tiny else (1000, 50)
    with tempfile.TemporaryDirectory() as folder, cluster() as make:
        place = Path(folder)
        found = {
            "sqlite": press(place / "one", jobs, clients),
            "postgresql": press(place / "two", jobs, clients, make()),
        }
    notes = [
        f"{name}: p99 of GET {it['get_p99_ms']} ms, memory {it['memory_mib'][0]} to "
        f"{it['memory_mib'][-1]} MiB, {it['kept'] - it['distinct']} doubled"
        for name, it in found.items()
    ]
    reached = all(is_well(it) and it["get_p99_ms"] < 50 for it in found.values())
    return {**found, "notes": notes, "reached": reached}


def _kills(effort: Effort) -> Mapping[str, Any]:
    from tests.serving.chaos import is_well, survive
    from tests.serving.postgres import cluster

    jobs, kills = (4, 4) if effort.tiny else (50, 200)
    with tempfile.TemporaryDirectory() as folder, cluster() as make:
        place = Path(folder)
        urls = {"sqlite": f"sqlite:///{place / 'mochi.db'}", "postgresql": make()}
        found = {}
        for name, url in urls.items():
            (place / name).mkdir()
            version = {"version": _version(url)}
            found[name] = version | survive(place / name, url, jobs=jobs, kills=kills, seed=2)
    wrong = sum(it[what] for it in found.values() for what in ("lost", "completed_twice", "stuck"))
    notes = [f"{sum(it['kills'] for it in found.values())} kills, {wrong} jobs harmed"]
    return {**found, "notes": notes, "reached": all(map(is_well, found.values()))}


def _version(url: str) -> str:
    import sqlalchemy as sa

    from mochi.serving.store.database import Database

    database = Database.open(url)
    with database.read() as connection:
        call = "version()" if database.is_postgresql else "sqlite_version()"
        text = str(connection.scalar(sa.text(f"SELECT {call}")))
    database.close()
    return text
