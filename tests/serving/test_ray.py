"""A cluster of two Ray nodes on this machine: replicas die, a node dies, the server dies; no job is
lost, and none is completed twice by anyone who was not cut off."""

import io
import random
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.serving.chaos import Victim
from tests.serving.cluster import ENVIRONMENT, Node
from tests.serving.conftest import needs_postgresql
from tests.serving.harness import FAKE, until
from tests.serving.jobs import MODEL, REQUEST, new_job

from mochi.serving.bus import open_bus
from mochi.serving.configured import model_entries
from mochi.serving.examples import PAGE
from mochi.serving.fleet.settings import FleetSetting
from mochi.serving.offers import Offers
from mochi.serving.settings import ModelSetting, ServeSettings
from mochi.serving.store.catalog import Catalog
from mochi.serving.store.database import Database
from mochi.serving.store.migrations import upgrade
from mochi.serving.store.queue import SqlStore
from mochi.video.reader import read_video

pytestmark = [pytest.mark.long, needs_postgresql]
LEASE_SECONDS = 3.0
PATIENCE = 600
EXAMPLE = PAGE / "examples" / "red-circle.mp4"


@pytest.fixture(scope="module", autouse=True)
def _words_for_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, None, cpus=2)
    try:
        until(lambda: "Ray runtime started" in node.log.read_text(), PATIENCE, 0.2)
        yield node
    finally:
        node.close()


class Yard:
    """A fleet on a queue of its own, without a server around it."""

    def __init__(self, url: str, head: Node, folder: Path, **setting: Any):
        from mochi.serving.fleet.fleet import Fleet
        from mochi.serving.fleet.replica import Post

        database = Database.open(url)
        upgrade(database)
        self.store = SqlStore(database)
        self.bus = open_bus(database.unflushed())
        told = ServeSettings(
            data=folder,
            database=url,
            blobs=str(folder / "blobs"),
            lease_seconds=LEASE_SECONDS,
            models=(ModelSetting(name=MODEL),),
        )
        place = FleetSetting(
            address=f"127.0.0.1:{head.port}", resources={"CPU": 1}, idle_seconds=1.0, **setting
        )
        self.offers = Offers(model_entries(told), Catalog(database))

        def post(name: str) -> Post:
            return Post(name, told, tuple(FAKE))

        self.fleet = Fleet(place, "yard", post, self.store, self.offers, self.bus)
        self.fleet.start()

    def kept_busy(self, ids: list[str], **request: Any) -> bool:
        """All replicas have a job; a quick machine is given more, lest it run out of them."""
        if not self.store.counts().get("starting"):
            ids += self.add(3, **request)
        return self.busy() == 3

    def add(self, count: int, **request: Any) -> list[str]:
        new = [
            new_job(request=REQUEST | {"prompt": f"slow circle {number}"} | request)
            for number in range(count)
        ]
        jobs, _ = self.store.add(new, 1000, 1000)
        return [job.id for job in jobs]

    def all_ended(self) -> bool:
        self.store.sweep(10_000)  # as a server's housekeeping does
        return not self.store.counts()

    def busy(self) -> int:
        return sum(runner.runner.state.state == "busy" for runner in self.fleet.workers)

    def close(self) -> None:
        self.fleet.stop(0.0)
        self.bus.close()
        self.store.database.close()


@contextmanager
def yard(make: Callable[[], str], head: Node, folder: Path, **setting: Any) -> Iterator[Yard]:
    place = Yard(make(), head, folder, **setting)
    try:
        yield place
    finally:
        place.close()


def test_replicas_come_with_the_queue_die_and_go(
    head: Node, postgresql: Callable[[], str], tmp_path: Path
) -> None:
    luck, other = random.Random(1), None
    try:
        with yard(postgresql, head, tmp_path, most=3) as place:
            until(place.offers.all, PATIENCE, 0.2)  # the first one comes to look at the models
            other = Node(tmp_path, head, cpus=1)
            ids = place.add(24, steps=20)
            until(lambda: place.busy() == 3, PATIENCE, 0.2)
            for _ in range(4):
                time.sleep(luck.uniform(0.2, 1.5))
                victims = [*head.replicas(), *other.replicas()]
                with suppress(psutil.Error, IndexError):
                    luck.choice(victims).kill()
            until(lambda: place.kept_busy(ids, steps=20) and other.replicas(), PATIENCE, 0.2)
            other.kill()  # the whole machine, with what it was making
            until(place.all_ended, PATIENCE, 0.2)
            jobs = [place.store.get(job_id) for job_id in ids]
            assert Counter(job.status for job in jobs if job) == {"succeeded": len(ids)}
            assert len({job.output_file for job in jobs if job}) == len(ids)
            assert sum(job.attempts for job in jobs if job) > len(ids)  # some did run twice
            until(lambda: not place.fleet.workers, PATIENCE, 0.2)
            until(lambda: not head.replicas(), PATIENCE, 0.2)
    finally:
        if other is not None:
            other.close()


def on_replicas(head: Node, folder: Path) -> dict[str, Any]:
    """Settings of a server that has one replica, and no runner of its own."""
    place = {"address": f"127.0.0.1:{head.port}", "resources": {"CPU": 1}}
    return {
        "devices": (),
        "blobs": str(folder / "blobs"),
        "lease_seconds": 30.0,
        "ray": place | {"most": 1, "idle_seconds": 600},
    }


def test_a_server_that_is_killed_finds_its_replica_at_work(
    head: Node, postgresql: Callable[[], str], tmp_path: Path
) -> None:
    """With nano: the replica does not notice that its server was away."""
    victim = Victim(tmp_path, postgresql(), **on_replicas(head, tmp_path))
    try:
        body = {"input": {"prompt": "a red circle", "num_inference_steps": 200}}
        job = victim.http.post("/v1/predictions", json=body).json()
        look = f"/v1/predictions/{job['id']}"
        until(lambda: "1/200" in victim.http.get(look).json()["logs"], PATIENCE, 0.2)
        victim.kill_server()
        time.sleep(2.0)
        victim.start()
        (runner,) = until(lambda: victim.http.get("/v1/server").json()["runners"], PATIENCE, 0.2)
        assert runner["name"].startswith("ray-")
        ended = until(
            lambda: (it := victim.http.get(look).json())["completed_at"] and it, PATIENCE, 0.2
        )
        assert ended["status"] == "succeeded", ended
        assert "waits again" not in ended["logs"]
        assert "200/200" in ended["logs"]
        assert victim.http.get(ended["output"]).content[4:8] == b"ftyp"
    finally:
        victim.close()
    assert until(lambda: not head.replicas(), PATIENCE, 0.2), (
        "a server that stops takes its replicas along"
    )


def test_a_replica_wears_what_the_server_has_trained_since(
    head: Node, postgresql: Callable[[], str], tmp_path: Path
) -> None:
    """With nano, from clips to a video, the training too."""
    clips = io.BytesIO()
    with zipfile.ZipFile(clips, "w") as packed:
        packed.write(EXAMPLE, "clip.mp4")
        packed.writestr("clip.txt", "a red circle")
    settings = on_replicas(head, tmp_path) | {"training": {}}
    victim = Victim(tmp_path, postgresql(), **settings)
    try:
        http, name = victim.http, "/v1/models/genmoai/mochi-1"

        def frames(**given: Any) -> np.ndarray:
            body = {"input": {"prompt": "a red circle", "seed": 1, "num_frames": 7, **given}}
            look = http.post("/v1/predictions", json=body).json()["urls"]["get"]
            job = until(lambda: (it := http.get(look).json())["completed_at"] and it, PATIENCE, 0.2)
            assert job["status"] == "succeeded", job
            (tmp_path / "video.mp4").write_bytes(http.get(job["output"]).content)
            return read_video(tmp_path / "video.mp4")

        bare = frames()
        version = http.get(name).json()["latest_version"]["id"]
        file = http.post("/v1/files", files={"content": ("clips.zip", clips.getvalue())}).json()
        given = {"clips": file["id"], "steps": 8, "frames": 7, "lr": 0.01, "rank": 4}
        body = {"destination": "me/style", "input": given}
        made = http.post(f"{name}/versions/{version}/trainings", json=body).json()
        look = f"/v1/trainings/{made['id']}"
        done = until(lambda: (it := http.get(look).json())["completed_at"] and it, PATIENCE, 0.2)
        assert done["status"] == "succeeded", done
        assert not np.array_equal(frames(loras=["style"]), bare)
        assert np.array_equal(frames(loras=["style:0"]), bare)
    finally:
        victim.close()
