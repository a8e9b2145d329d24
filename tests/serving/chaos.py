"""`kill -9` of server, runner or both, at random moments, and what is left of the queue then."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from tests.serving.harness import until

from mochi.serving.store.audit import Audit
from mochi.serving.store.database import Database, DatabaseError
from mochi.serving.store.files import Files
from mochi.serving.store.queue import SqlStore

SCRIPT = Path(__file__).with_name("chaos_server.py")
STEPS = 4  # a tenth of a second each
PATIENCE_SECONDS = 300


class Victim:
    """A server that is killed and started again, by one who never gives up."""

    def __init__(self, folder: Path, database_url: str, **settings: Any):
        self.settings: dict[str, Any] = {
            "data": str(folder / "data"),
            "database": database_url,
            "port": 0,
            "max_attempts": 10_000,
            "lease_seconds": 10.0,
            "requests_per_minute": 0,
            **settings,
        }
        self.completed = folder / "completed"  # ids of runs that came to their end, by the runner
        self.log = folder / "server.log"
        with self.log.open("ab") as log:
            self.nursery = subprocess.Popen(
                [sys.executable, str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "FAKE_RUNNER_LOG": str(self.completed)},
            )
        self.start()

    def start(self) -> None:
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.write(json.dumps(self.settings).encode() + b"\n")
        self.nursery.stdin.flush()
        born = json.loads(self.nursery.stdout.readline())
        assert born["url"], self.log.read_text()[-2000:]
        self.process = psutil.Process(born["pid"])
        self.http = httpx.Client(base_url=born["url"], timeout=60.0)

    def kill_server(self) -> None:
        self._end(signal.SIGKILL)

    def kill_runner(self) -> None:
        with suppress(psutil.Error):
            for child in self.process.children():
                child.kill()

    def close(self) -> None:
        self._end(signal.SIGTERM)
        self.nursery.communicate(timeout=60)

    def _end(self, number: int) -> None:
        self.process.send_signal(number)
        until(self._is_gone, 60)
        self.http.close()

    def _is_gone(self) -> bool:
        try:
            return bool(self.process.status() == psutil.STATUS_ZOMBIE)  # the nursery's to bury
        except psutil.NoSuchProcess:
            return True


class Killer:
    """Chooses what dies, and when: at any moment, or, each third time, as a run comes to its end,
    where a video is written, stored, and made known within milliseconds."""

    def __init__(self, victim: Victim, store: SqlStore, seed: int):
        self._victim = victim
        self._store = store
        self._luck = random.Random(seed)
        self.kinds: Counter[str] = Counter()
        self.moments: Counter[str] = Counter()

    def strike(self) -> None:
        if self._luck.random() < 1 / 3:
            self._wait_for_an_end()
        else:
            time.sleep(self._luck.uniform(0.0, 0.6))
        self.moments["while a job ran" if self._store.running() else "between jobs"] += 1
        what = self._luck.choice(["server", "runner", "both"])
        self.kinds[what] += 1
        if what in ("runner", "both"):
            self._victim.kill_runner()
        if what in ("server", "both"):
            self._victim.kill_server()
            self._victim.start()

    def _wait_for_an_end(self) -> None:
        until(self._nears_an_end, PATIENCE_SECONDS, 0.005)
        time.sleep(self._luck.uniform(0.0, 0.4))

    def _nears_an_end(self) -> bool:
        """A run is halfway, as far as its row says; or there is nothing more to run."""
        with suppress(DatabaseError):
            halfway = any(job.step >= STEPS // 2 for job in self._store.running())
            return halfway or not self._store.counts()
        return False


def create(victim: Victim, number: int) -> str:
    """Enqueue a job, by hook or by crook: a lost answer is asked for again, with the same key."""
    body = {"input": {"prompt": f"slow circle {number}", "num_inference_steps": STEPS}}
    answer = victim.http.post(
        "/v1/predictions", json=body, headers={"Idempotency-Key": f"job {number}"}
    )
    assert answer.status_code in (201, 202), answer.text
    return str(answer.json()["id"])


def survive(folder: Path, database_url: str, jobs: int, kills: int, seed: int) -> dict[str, Any]:
    """Half of the jobs wait from the start, the others come one by one among the kills.

    Returns:
        What was done, and what was found afterwards; see `_found`.
    """
    began = time.monotonic()
    victim = Victim(folder, database_url)
    database = Database.open(database_url)
    store = SqlStore(database)
    try:
        killer = Killer(victim, store, seed)
        ids = [create(victim, number) for number in range(jobs // 2)]
        for number in range(kills):
            killer.strike()
            while len(ids) < jobs // 2 + (jobs - jobs // 2) * (number + 1) // kills:
                ids.append(create(victim, len(ids)))
        with suppress(AssertionError):  # what is stuck then is told below
            until(lambda: not store.counts(), PATIENCE_SECONDS, 0.2)
        found = _found(victim, store, ids)
    finally:
        victim.close()
    left = [path for path in (folder / "data" / "work").rglob("*") if path.is_file()]
    blobs = [path for path in (folder / "data" / "blobs").rglob("*") if path.is_file()]
    finished = Counter(
        line["prediction"]
        for line in Audit(database).latest(10 * jobs)
        if line["action"] == "succeeded"
    )
    database.close()
    return {
        "jobs": len(set(ids)),
        "kills": sum(killer.kinds.values()),
        "killed": dict(killer.kinds),
        "moments": dict(killer.moments),
        **found,
        "told_twice": sum(count > 1 for count in finished.values()),
        "files_left": len(left),
        "blobs": len(blobs),
        "videos_taken_up": victim.log.read_text().count("video_taken_up"),
        "seconds": round(time.monotonic() - began, 1),
    }


def _found(victim: Victim, store: SqlStore, ids: list[str]) -> dict[str, Any]:
    """What is lost (no such job, or it failed, or another's video), stuck (has not ended), run
    twice to completion (by what the runner itself wrote down); and how often jobs began."""
    answers = [victim.http.get(f"/v1/predictions/{job_id}") for job_id in ids]
    jobs = [it.json() for it in answers if it.status_code == 200]
    lost = len(ids) - len(jobs)
    for number, job in enumerate(jobs):
        right = f"a video of slow circle {number}".encode()
        if job["completed_at"] is not None:
            lost += job["status"] != "succeeded" or victim.http.get(job["output"]).content != right
    completed = Counter(victim.completed.read_text().split())
    kept = [store.get(job_id) for job_id in ids]
    return {
        "succeeded": sum(job["status"] == "succeeded" for job in jobs),
        "lost": lost,
        "stuck": sum(job["completed_at"] is None for job in jobs),
        "completed_twice": sum(count > 1 for count in completed.values()),
        "attempts": sum(job.attempts for job in kept if job is not None),
        "files": len(Files(store.database).known()),
    }


def is_well(found: dict[str, Any]) -> bool:
    """Nothing lost, nothing doubled, nothing stuck, nothing left over."""
    bad = ("lost", "stuck", "completed_twice", "told_twice", "files_left")
    same = {found[name] for name in ("jobs", "succeeded", "files", "blobs")}
    return not any(found[name] for name in bad) and len(same) == 1
