"""Many clients at once against a server of its own process, with a runner that takes no time.

The clients are tasks of one event loop that speak HTTP themselves, so that what they measure is the
server, and not fifty threads of Python that wait for each other. They come one after another within
one pause between looks, as people do: in step, each look would be measured behind 49 others. What
the server's own clock says of the same looks stands beside it.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

SCRIPT = Path(__file__).with_name("chaos_server.py")
SECONDS_BETWEEN_LOOKS = 0.5
SAMPLES = 10


def press(data: Path, jobs: int, clients: int, database: str | None = None) -> dict[str, Any]:
    """Enqueue so many jobs from so many clients, asking for each until it has ended.

    Returns:
        How it went: ends by status, milliseconds of GETs and POSTs, memory of the server after
        each tenth of the jobs.
    """
    settings = {
        "data": str(data),
        "port": 0,
        "database": database,
        "requests_per_minute": 0,
        "waiting_limit": jobs,
        "account_waiting_limit": jobs,
        "log_format": "json",
    }
    words = [sys.executable, str(SCRIPT), json.dumps(settings)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        crowd = Crowd(url, psutil.Process(process.pid), jobs)
        with ThreadPoolExecutor(1) as thread:  # playwright's loop may run in this one
            return thread.submit(lambda: asyncio.run(crowd.press(clients))).result()
    finally:
        process.terminate()
        process.communicate(timeout=60)


class Connection:
    """One that is kept open: as much of HTTP/1.1 as our server's answers need."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self._writer.write(head.encode() + content)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next(line for line in lines if line.startswith("content-length:"))
        answer = await self._reader.readexactly(int(length.partition(":")[2]))
        return int(lines[0].split()[1]), json.loads(answer)

    def close(self) -> None:
        self._writer.close()


class Crowd:
    """Clients, and what they see."""

    def __init__(self, url: str, server: psutil.Process, jobs: int):
        self._url = url
        self._server = server
        self._jobs = jobs
        self._numbers: Iterator[int] = iter(range(jobs))
        self.gets: list[float] = []
        self.posts: list[float] = []
        self.ends: list[tuple[str, str]] = []
        self.mistakes: list[str] = []
        self.memory: list[int] = []

    async def press(self, clients: int) -> dict[str, Any]:
        began = time.perf_counter()
        used = self._processor_seconds()
        pause = SECONDS_BETWEEN_LOOKS / clients
        await asyncio.gather(*(self._client(pause * number) for number in range(clients)))
        seconds = time.perf_counter() - began
        return {
            "jobs": self._jobs,
            "clients": clients,
            "seconds": round(seconds, 2),
            "ends": dict(Counter(status for _, status in self.ends)),
            "distinct": len({job_id for job_id, _ in self.ends}),
            "kept": await self._kept(),
            "mistakes": self.mistakes[:3],
            "gets": len(self.gets),
            **_times("get", self.gets),
            "get_percent_within_50_ms_by_server": _within_50_ms(self._url),
            **_times("post", self.posts),
            "server_processor_seconds": round(self._processor_seconds() - used, 2),
            "memory_mib": self.memory,
        }

    async def _client(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        connection = Connection(self._url)
        await connection.open()
        for number in self._numbers:
            try:
                self.ends.append(await self._one(connection, number))
            except (OSError, AssertionError, asyncio.IncompleteReadError) as error:
                self.mistakes.append(repr(error))
                return
            if len(self.ends) % max(1, self._jobs // SAMPLES) == 0:
                self.memory.append(round(self._server.memory_info().rss / 2**20))
        connection.close()

    async def _one(self, connection: Connection, number: int) -> tuple[str, str]:
        body = {"input": {"prompt": f"circle {number}", "num_inference_steps": 1}}
        began = time.perf_counter()
        status, job = await connection.ask("POST", "/v1/predictions", body)
        self.posts.append(time.perf_counter() - began)
        assert status in (201, 202), job
        while job["completed_at"] is None:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            began = time.perf_counter()
            status, job = await connection.ask("GET", f"/v1/predictions/{job['id']}")
            self.gets.append(time.perf_counter() - began)
            assert status == 200, job
        return job["id"], job["status"]

    async def _kept(self) -> int:
        """How many jobs the server knows of: one that was enqueued twice is one too many."""
        connection = Connection(self._url)
        await connection.open()
        ids: set[str] = set()
        path: str | None = "/v1/predictions"
        while path is not None:
            _, page = await connection.ask("GET", path)
            ids |= {job["id"] for job in page["results"]}
            following = page["next"]
            path = None if following is None else following.removeprefix(self._url)
        connection.close()
        return len(ids)

    def _processor_seconds(self) -> float:
        times = self._server.cpu_times()
        return float(times.user + times.system)


def _times(name: str, seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"{name}_median_ms": round(1000 * statistics.median(ordered), 1),
        f"{name}_p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1),
        f"{name}_most_ms": round(1000 * ordered[-1], 1),
    }


def _within_50_ms(url: str) -> float:
    """The share of answered looks at a job that took the server less, by its own metrics."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    looks = [
        line
        for line in lines
        if line.startswith("mochi_request_seconds_bucket")
        and 'method="GET",route="/v1/predictions/{job_id}",' in line
    ]
    counts = {
        line.partition('le="')[2].partition('"')[0]: float(line.split()[-1]) for line in looks
    }
    return round(100 * counts["0.05"] / counts["+Inf"], 2)


def is_well(found: dict[str, Any]) -> bool:
    """Nothing lost, nothing doubled, and memory that stays as it is once all is warm."""
    jobs, memory = found["jobs"], found["memory_mib"]
    half = memory[len(memory) // 2 :]
    flat = half[-1] - half[0] <= max(8, half[0] // 20)
    counts = {found["distinct"], found["kept"], found["ends"].get("succeeded")}
    return counts == {jobs} and not found["mistakes"] and flat
