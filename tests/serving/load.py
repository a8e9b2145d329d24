"""Many clients at once against a server of its own process, with a runner that takes no time."""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

SCRIPT = Path(__file__).with_name("chaos_server.py")


def press(data: Path, jobs: int, clients: int) -> dict[str, Any]:
    """Enqueue so many jobs from so many clients, asking for each until it has ended.

    Returns:
        How it went: ends by status, seconds of GETs, memory of the server at the start and the end.
    """
    settings = {
        "data": str(data),
        "port": 0,
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
        return _press(url, psutil.Process(process.pid), jobs, clients)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _press(url: str, server: psutil.Process, jobs: int, clients: int) -> dict[str, Any]:
    gets: list[float] = []
    ends: list[tuple[str, str]] = []
    mistakes: list[str] = []
    numbers = iter(range(jobs))
    lock = threading.Lock()

    def work() -> None:
        with httpx.Client(base_url=url, timeout=60.0) as http:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                try:
                    ends.append(_one(http, number, gets))
                except (httpx.HTTPError, AssertionError) as error:
                    mistakes.append(repr(error))

    began, memory = time.perf_counter(), server.memory_info().rss
    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(gets)
    return {
        "jobs": jobs,
        "clients": clients,
        "seconds": round(time.perf_counter() - began, 2),
        "ends": dict(Counter(status for _, status in ends)),
        "distinct": len({job_id for job_id, _ in ends}),
        "mistakes": mistakes[:3],
        "gets": len(gets),
        "get_median_ms": round(1000 * statistics.median(gets), 1),
        "get_p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1),
        "memory_mib": [round(it / 2**20) for it in (memory, server.memory_info().rss)],
    }


def _one(http: httpx.Client, number: int, gets: list[float]) -> tuple[str, str]:
    body = {"input": {"prompt": f"circle {number}", "num_inference_steps": 1}}
    answer = http.post("/v1/predictions", json=body)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    while job["completed_at"] is None:
        time.sleep(0.5)
        began = time.perf_counter()
        answer = http.get(f"/v1/predictions/{job['id']}")
        gets.append(time.perf_counter() - began)
        assert answer.status_code == 200, answer.text
        job = answer.json()
    return job["id"], job["status"]
