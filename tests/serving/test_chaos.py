"""`kill -9` of server, runner or both, at random moments: nothing is lost, doubled or stuck."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.serving.conftest import BOTH
from tests.serving.harness import until

from mochi.serving.store.audit import Audit
from mochi.serving.store.database import Database

SCRIPT = Path(__file__).with_name("chaos_server.py")
both = pytest.mark.parametrize("database_url", BOTH, indirect=True)


class Victim:
    """A server that is killed and started again, by one who never gives up."""

    def __init__(self, data: Path, database_url: str):
        self.settings = {
            "data": str(data),
            "database": database_url,
            "port": 0,
            "max_attempts": 10_000,
            "lease_seconds": 2.0,
            "requests_per_minute": 0,
        }
        self.log = (data.parent / "server.log").open("ab")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(self.settings)],
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        assert self.process.stdout is not None
        url = self.process.stdout.readline().decode().strip()
        assert url, Path(self.log.name).read_text()[-2000:]
        self.http = httpx.Client(base_url=url, timeout=30.0)

    def kill_server(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.http.close()

    def kill_runner(self) -> None:
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                child.kill()

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)
        self.http.close()
        self.log.close()


def create(victim: Victim, number: int) -> str:
    """Enqueue a job, by hook or by crook: a lost answer is asked for again, with the same key."""
    body = {"input": {"prompt": f"slow circle {number}", "num_inference_steps": 2}}
    answer = victim.http.post(
        "/v1/predictions", json=body, headers={"Idempotency-Key": f"job {number}"}
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def survive(data: Path, database_url: str, jobs: int, kills: int, seed: int) -> None:
    luck = random.Random(seed)
    victim = Victim(data, database_url)
    try:
        ids = [create(victim, number) for number in range(jobs // 2)]
        for number in range(kills):
            time.sleep(luck.uniform(0.0, 0.6))
            what = luck.choice(["server", "runner", "both"])
            if what in ("runner", "both"):
                victim.kill_runner()
            if what in ("server", "both"):
                victim.kill_server()
                victim.start()
            if number < jobs - jobs // 2:
                ids.append(create(victim, jobs // 2 + number))
        ids += [create(victim, number) for number in range(len(ids), jobs)]

        def all_ended() -> list[dict[str, Any]] | None:
            found = [victim.http.get(f"/v1/predictions/{job_id}").json() for job_id in ids]
            return found if all(it["completed_at"] for it in found) else None

        ended = until(all_ended, 180)
        assert Counter(it["status"] for it in ended) == {"succeeded": jobs}
        for number, job in enumerate(ended):
            video = victim.http.get(job["output"]).content
            assert video == f"a video of slow circle {number}".encode()
        assert len(set(ids)) == jobs
    finally:
        victim.close()
    lines = Audit(Database.open(database_url)).latest(10 * jobs)
    finished = Counter(line["prediction"] for line in lines if line["action"] == "succeeded")
    assert set(finished) <= set(ids)
    assert max(finished.values()) == 1
    assert list((data / "work").iterdir()) == []


def test_a_few_kills(database_url: str, tmp_path: Path) -> None:
    survive(tmp_path / "data", database_url, jobs=6, kills=3, seed=1)


@pytest.mark.long
@both
def test_two_hundred_kills(database_url: str, tmp_path: Path) -> None:
    survive(tmp_path / "data", database_url, jobs=50, kills=200, seed=2)
