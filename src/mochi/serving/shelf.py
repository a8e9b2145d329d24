"""What workers work with, and how a video that is done becomes the end of its job."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from mochi.serving.bell import JOBS
from mochi.serving.blobs import Blobs
from mochi.serving.bus import EventBus
from mochi.serving.jobs import Job, Outcome
from mochi.serving.made import Made
from mochi.serving.runner.protocol import Runner
from mochi.serving.store.database import DatabaseError
from mochi.serving.store.files import NewFile
from mochi.serving.store.protocol import Store

log = structlog.get_logger()
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Shelf:
    """What a worker works with.

    Attributes:
        work: folder for videos that are being made.
        owner: who holds the leases; begins with the server's own name.
        price_per_hour: of a device, or None.
        together: jobs that may be made in one batch, where that is faster.
        max_attempts: how often a job may lose its runner.
        bring: tells a runner of adapters that a job asks for and it does not know.
        on_ready, on_end: told when a runner has come up, and when a run has ended.
        on_flag: told what classifiers found in a run that went on all the same.
        sign: puts a statement of where it comes from into a finished video, once.
    """

    store: Store
    blobs: Blobs
    bus: EventBus
    work: Path
    owner: str
    models: tuple[str, ...]
    lease_seconds: float = 30.0
    price_per_hour: float | None = None
    together: int = 1
    max_attempts: int = 3
    bring: Callable[[Runner, Job], None] = lambda runner, job: None
    on_ready: Callable[[Runner], None] = lambda runner: None
    on_end: Callable[[Job], None] = lambda job: None
    on_flag: Callable[[Job, Mapping[str, Any]], None] = lambda job, verdict: None
    sign: Callable[[Path, str], None] = lambda video, model: None


def stored(shelf: Shelf, job: Job, path: Path, facts: Mapping[str, Any]) -> Outcome:
    """The video into the blobs, and what is known of it for the job's end.

    May be repeated after a death in the middle: the path's stem is the file's id both times.
    """
    file_id, request = path.stem, job.request
    if path.exists():
        shelf.sign(path, job.model)
        digest, size = _digest(path), path.stat().st_size
        shelf.blobs.put(file_id, path)
    else:  # it had been put there before
        digest, size = _kept(shelf.blobs, file_id)
    name = f"mochi-{job.id}.mp4"
    new = NewFile(file_id, job.account, name, "video/mp4", size, digest, prediction=job.id)
    for verdict in facts.get("judged", []):
        shelf.on_flag(job, verdict)
    seconds = {name: round(value, 4) for name, value in facts.get("seconds", {}).items()}
    metrics = {name: request[name] for name in ("frames", "height", "width", "steps")}
    metrics |= {"fps": request.get("fps", 30), "prompt_tokens": facts.get("prompt_tokens")}
    if facts.get("together", 1) > 1:
        metrics["together"] = facts["together"]
    if "denoise" in seconds:
        metrics["seconds_per_step"] = round(seconds["denoise"] / request["steps"], 4)
    return Outcome(file_id, metrics | {"phases": seconds}, file=new)


def end(shelf: Shelf, job: Job, outcome: Outcome, lines: str = "", **progress: Any) -> None:
    """End a job that is ours, with the last it said; what it made goes where it is no longer."""
    if shelf.price_per_hour is not None and outcome.error is None and job.started_at:
        ran = (time.time() - job.started_at) / outcome.metrics.get("together", 1)
        price = {"price": round(ran / 3600 * shelf.price_per_hour, 6)}
        outcome = replace(outcome, metrics={**outcome.metrics, **price})
    ended = patiently(job.id, lambda: shelf.store.finish(job, outcome, lines, **progress))
    shelf.bus.ring(job.id, JOBS)
    if ended is None and outcome.output_file is not None:  # cancelled, or taken by another
        shelf.blobs.delete(outcome.output_file)
    elif ended is not None:
        shelf.on_end(ended)


def take_up(shelf: Shelf, made: Sequence[Made]) -> int:
    """End the jobs whose videos were done when an earlier process of this server died."""
    notes = {it.job_id: it for it in made}
    mine = [
        job
        for job in shelf.store.running()
        if (job.lease_owner or "").startswith(f"{shelf.owner}:") and job.id in notes
    ]
    for job in mine:
        found = notes[job.id]
        if found.path.exists() or shelf.blobs.size(found.path.stem) is not None:
            end(shelf, job, stored(shelf, job, found.path, found.facts))
            log.info("video_taken_up", id=job.id)
    return len(mine)


def patiently(job_id: str, act: Callable[[], Any]) -> Any:
    """What must not be lost to a database that is away for a while."""
    pause, patience = 0.2, time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return act()
        except DatabaseError as error:
            log.warning("database_away", id=job_id, reason=str(error))
            if time.monotonic() > patience:
                raise
            time.sleep(pause)
            pause = min(5.0, 2 * pause)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _kept(blobs: Blobs, key: str) -> tuple[str, int]:
    size, digest = blobs.size(key), hashlib.sha256()
    assert size is not None, key
    for piece in blobs.read(key, 0, size):
        digest.update(piece)
    return digest.hexdigest(), size
