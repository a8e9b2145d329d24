"""Trainings: from an upload to an adapter on offer, durable, apart for each account, and safe."""

from __future__ import annotations

import io
import json
import stat
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.conftest import needs_postgresql
from tests.serving.harness import Running, running, until

from mochi.core.errors import OutputError
from mochi.serving.blobs import FolderBlobs
from mochi.serving.jobs import new_id
from mochi.serving.store.adapters import Adapters, SharedAdapter
from mochi.serving.store.database import DatabaseError
from mochi.serving.trainings.archive import ArchiveError, Limits, unpack
from mochi.serving.trainings.book import Book, Training
from mochi.serving.trainings.shared import Shared
from mochi.serving.trainings.trainers import config_text, last_step

MODEL = "genmoai/mochi-1"
# Stands for `mochi`: prepares nothing, "trains" for as long as a file says, leaves an adapter.
FAKE = """
import json, pathlib, sys, time
words = sys.argv[1:]
if words[0] == "prepare":
    pathlib.Path("data").mkdir(exist_ok=True)
    if not list(pathlib.Path("clips").rglob("*.mp4")):
        print("mochi: error: clips: holds no videos", file=sys.stderr)
        sys.exit(2)
    print("1 sample")
else:
    run = pathlib.Path("run")
    run.mkdir(exist_ok=True)
    print("training begins", flush=True)
    step = 1
    while (pathlib.Path("clips") / "wait.txt").exists() and not (run / "go").exists():
        with (run / "history.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "step", "step": step}) + "\\n")
        time.sleep(0.05)
    (run / "adapter").mkdir(exist_ok=True)
    for name in ("adapter", "adapter-comfyui", "pytorch_lora_weights"):
        (run / "adapter" / f"{name}.safetensors").write_bytes(name.encode())
"""


def archive(*names: str, **content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in names:
            packed.writestr(name, b"x")
        for name, raw in content.items():
            packed.writestr(name.replace("__", "."), raw)
    return file.getvalue()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake.py").write_text(FAKE)
    from mochi.serving.trainings import trainers

    monkeypatch.setattr(trainers, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(trainers, "COMMAND", (sys.executable, str(tmp_path / "fake.py")))


def upload(place: Running, raw: bytes, token: str | None = None) -> str:
    client = place.client(token)
    answer = client.post("/v1/files", files={"content": ("clips.zip", raw)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def order(place: Running, raw: bytes, name: str = "me/style", **given: Any) -> Any:
    version = place.http.get(f"/v1/models/{MODEL}").json()["latest_version"]["id"]
    body = {"destination": name, "input": {"clips": upload(place, raw), **given}}
    return place.http.post(f"/v1/models/{MODEL}/versions/{version}/trainings", json=body)


def ended(place: Running, training_id: str) -> dict[str, Any]:
    def look() -> Any:
        found = place.http.get(f"/v1/trainings/{training_id}").json()
        return found["completed_at"] and found

    return dict(until(look))


def test_without_the_setting_it_is_said(tmp_path: Path) -> None:
    with running(tmp_path / "data") as place:
        answer = order(place, archive("a.mp4"))
        assert (answer.status_code, answer.headers["content-type"][:16]) == (
            501,
            "application/prob",
        )
        assert place.http.get("/v1/trainings").json()["results"] == []


@pytest.mark.usefixtures("fake")
def test_from_an_upload_to_an_adapter_on_offer(tmp_path: Path) -> None:
    with running(tmp_path / "data", training={}) as place:
        answer = order(place, archive("clips/a.mp4", "clips/a.txt"), steps=50, rank=4)
        assert answer.status_code == 201, answer.text
        made = answer.json()
        assert (made["status"], made["input"]["rank"]) == ("starting", 4)
        assert made["urls"]["get"] == f"{place.url}/v1/trainings/{made['id']}"
        done = ended(place, made["id"])
        assert (done["status"], done["error"], done["output"]["lora"]) == (
            "succeeded",
            None,
            "style",
        )
        assert "training begins" in done["logs"]
        assert str(tmp_path) not in json.dumps(done)
        raw = place.http.get(done["output"]["weights"], params={"flavour": "comfy"})
        assert raw.content == b"adapter-comfyui"
        schema = place.http.get(f"/v1/models/{MODEL}").json()["latest_version"]["openapi_schema"]
        assert "style" in json.dumps(schema["components"]["schemas"]["Input"])
        assert place.ended(place.create(loras=["style:0.5"])["id"])["status"] == "succeeded"
        assert "already" in order(place, archive("a.mp4")).json()["detail"]
        folder = tmp_path / "data" / "trainings" / made["id"]
        until(lambda: not (folder / "clips.zip").exists())
        assert (folder / "run" / "adapter").is_dir()
    with running(tmp_path / "data", training={}) as place:  # it is still offered
        assert place.ended(place.create(loras=["style"])["id"])["status"] == "succeeded"
        assert place.http.get("/v1/trainings").json()["results"][0]["id"] == made["id"]


@pytest.mark.usefixtures("fake")
def test_a_restart_goes_on_and_a_cancel_ends(tmp_path: Path) -> None:
    with running(tmp_path / "data", training={}) as place:
        made = order(place, archive("a.mp4", "wait.txt")).json()
        address = f"/v1/trainings/{made['id']}"
        until(lambda: place.http.get(address).json()["step"] == 1)
    with running(tmp_path / "data", training={}) as place:
        until(lambda: place.http.get(address).json()["status"] == "processing")
        second = order(place, archive("a.mp4", "wait.txt"), "me/other").json()
        answer = place.http.post(f"{address}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
        assert place.http.post(f"{address}/cancel").json()["status"] == "canceled"
        next_one = f"/v1/trainings/{second['id']}"
        until(lambda: place.http.get(next_one).json()["status"] == "processing")
        until(lambda: place.http.get(next_one).json()["step"] == 1)
        (tmp_path / "data" / "trainings" / second["id"] / "run" / "go").touch()
        assert ended(place, second["id"])["status"] == "succeeded"


@pytest.mark.usefixtures("fake")
def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    with running(tmp_path / "data", training={"max_steps": 100}) as place:
        bad = ended(place, order(place, b"no zip file").json()["id"])
        assert bad["status"] == "failed"
        assert "the archive is no zip file" in bad["error"]
        empty = ended(place, order(place, archive("readme.md")).json()["id"])
        assert empty["error"] == "clips: holds no videos"
        for wrong, field in (
            ({"steps": 101}, "input.steps"),
            ({"steps": 0}, "input.steps"),
            ({"frames": 36}, "input.frames"),
            ({"width": 64}, "input.width"),
            ({"lr": 7}, "input.lr"),
            ({"clips": "https://example.com/a.zip"}, "input.clips"),
            ({"shell": "rm"}, "input.shell"),
        ):
            answer = order(place, archive("a.mp4"), **wrong)
            assert answer.status_code == 422
            assert answer.json()["invalid_fields"][0]["field"] == field
        assert order(place, archive("a.mp4"), "me/../../x").status_code == 422


@pytest.mark.usefixtures("fake")
def test_accounts_are_apart(tmp_path: Path) -> None:
    with running(tmp_path / "data", training={}) as place:
        raw, tokens = archive("a.mp4"), place.services.tokens
        mine = tokens.create(["read", "run"], "mine")
        other = tokens.create(["read", "run"], "other")
        me, them = place.client(mine), place.client(other)
        version = me.get(f"/v1/models/{MODEL}").json()["latest_version"]["id"]
        address = f"/v1/models/{MODEL}/versions/{version}/trainings"
        file = upload(place, raw, mine)
        body = {"destination": "a/b", "input": {"clips": file}}
        assert them.post(address, json=body).status_code == 422, "not their file"
        made = me.post(address, json=body).json()
        for words in ("", "/adapter"):
            assert them.get(f"/v1/trainings/{made['id']}{words}").status_code == 404
        assert them.post(f"/v1/trainings/{made['id']}/cancel").status_code == 404
        assert them.get("/v1/trainings").json()["results"] == []
        assert len(me.get("/v1/trainings").json()["results"]) == 1


class TestArchive:
    @pytest.mark.parametrize(
        "name", ["../a.mp4", "/etc/a.mp4", "a/../../b", "C:\\a.mp4", "..\\a", "a\x01b", "x" * 201]
    )
    def test_names_that_lead_elsewhere(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "a.zip").write_bytes(archive(name))
        with pytest.raises(ArchiveError, match="holds a name"):
            unpack(tmp_path / "a.zip", tmp_path / "out", Limits())
        assert not (tmp_path / "out").exists()

    def test_links_and_doubles(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
            link = zipfile.ZipInfo("a.mp4")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(link, "/etc/passwd")
        with pytest.raises(ArchiveError, match="a link"):
            unpack(tmp_path / "a.zip", tmp_path / "out", Limits())
        (tmp_path / "b.zip").write_bytes(archive("a.mp4", "A.mp4"))
        with pytest.raises(ArchiveError, match="twice"):
            unpack(tmp_path / "b.zip", tmp_path / "out", Limits())

    def test_bombs(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("a.mp4", bytes(50_000_000))
        assert (tmp_path / "a.zip").stat().st_size < 100_000
        with pytest.raises(ArchiveError, match="too large when it is unpacked"):
            unpack(tmp_path / "a.zip", tmp_path / "out", Limits(unpacked_bytes=3_000_000))
        assert sum(it.stat().st_size for it in (tmp_path / "out").rglob("*")) < 5_000_000
        (tmp_path / "b.zip").write_bytes(archive(*(f"{n}.txt" for n in range(20))))
        with pytest.raises(ArchiveError, match="20 files, at most 10"):
            unpack(tmp_path / "b.zip", tmp_path / "more", Limits(files=10))

    @given(st.binary(max_size=200), st.integers(0, 120), st.binary(min_size=1, max_size=8))
    def test_any_bytes(self, tmp_path_factory: Any, raw: bytes, at: int, patch: bytes) -> None:
        folder = tmp_path_factory.mktemp("zip")
        good = bytearray(archive("a.mp4", "b/c.txt"))
        good[at : at + len(patch)] = patch
        for number, content in enumerate((raw, bytes(good))):
            (folder / "a.zip").write_bytes(content)
            try:
                unpack(folder / "a.zip", folder / f"out{number}", Limits())
            except (ArchiveError, OutputError):
                continue
            found = [it.relative_to(folder / f"out{number}") for it in folder.rglob("out*/**/*")]
            assert all(".." not in it.parts for it in found)


@pytest.fixture
def several(postgresql: Callable[[], str], tmp_path: Path) -> dict[str, Any]:
    """Settings of servers on one database."""
    return {"database": postgresql(), "blobs": str(tmp_path / "blobs"), "training": {}}


@needs_postgresql
@pytest.mark.usefixtures("fake")
class TestSeveralServers:
    def test_all_offer_and_run_what_one_has_trained(
        self, several: dict[str, Any], tmp_path: Path
    ) -> None:
        with (
            running(tmp_path / "worker", **several) as worker,
            running(tmp_path / "trainer", devices=(), **several) as trainer,
        ):
            made = order(trainer, archive("a.mp4", "a.txt")).json()
            assert ended(trainer, made["id"])["status"] == "succeeded"
            asked = trainer.create(loras=["style"])  # known at once where it was trained
            done = trainer.ended(asked["id"])
            assert done["status"] == "succeeded", done
            assert trainer.http.get(done["output"]).content.endswith(b"circle moves leftadapter")
            until(lambda: "style" in worker.services.offers.entries[MODEL].lora_scales)
            worker.services.workers[0].runner.close()  # it is told again
            done = worker.ended(worker.create(loras=["style"])["id"])
            assert worker.http.get(done["output"]).content.endswith(b"adapter")
            assert "already" in order(worker, archive("a.mp4")).json()["detail"]
        with running(tmp_path / "third", **several) as third:
            done = third.ended(third.create(loras=["style"])["id"])
            assert third.http.get(done["output"]).content.endswith(b"adapter")

    def test_what_a_server_trained_when_it_was_alone(
        self, several: dict[str, Any], tmp_path: Path
    ) -> None:
        with running(tmp_path / "data", training={}) as alone:
            made = order(alone, archive("a.mp4")).json()
            assert ended(alone, made["id"])["status"] == "succeeded"
        with running(tmp_path / "data", **several) as moved:
            done = moved.ended(moved.create(loras=["style"])["id"])
            assert moved.http.get(done["output"]).content.endswith(b"adapter")

    def test_two_of_one_name_and_one_that_is_gone(
        self, several: dict[str, Any], tmp_path: Path
    ) -> None:
        with running(tmp_path / "data", **several) as place:
            shared = place.services.shared
            assert shared is not None
            held = order(place, archive("a.mp4", "wait.txt")).json()
            until(lambda: place.http.get(f"/v1/trainings/{held['id']}").json()["step"] == 1)
            book = Book(tmp_path / "other")
            quicker = Training(
                id=new_id(), account="a", model=MODEL, version="v", destination="b/style", input={}
            )
            book.add(quicker, lambda path: path.touch())
            book.adapter(quicker).mkdir(parents=True)
            (book.adapter(quicker) / "adapter.safetensors").write_bytes(b"the other one")
            shared.share(book, quicker)
            shared.share(book, quicker)  # again: nothing happens
            (tmp_path / "data" / "trainings" / held["id"] / "run" / "go").touch()
            late = ended(place, held["id"])
            assert (late["status"], late["error"]) == (
                "failed",
                "destination='style' is another adapter's by now",
            )
            assert place.services.blobs.size(held["id"]) is None
            until(lambda: "style" in place.services.offers.entries[MODEL].lora_scales)
            shared.withdraw(quicker)
            gone = place.ended(place.create(loras=["style"])["id"])
            assert gone["error"] == "[bad_weights] the adapter style is not there any more"

    @pytest.mark.parametrize("what", ["blobs", "database"])
    def test_a_store_that_refuses_is_tried_again(
        self, several: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        refused: list[str] = []

        def put_later(place: FolderBlobs, key: str, path: Path) -> None:
            if not refused and path.suffix == ".adapter":
                refused.append(key)
                raise OutputError("output cannot be stored: the disk is full")
            put(place, key, path)

        def add_later(place: Adapters, new: SharedAdapter) -> bool:
            if not refused:
                refused.append(new.key)
                raise DatabaseError("the database does not answer")
            return add(place, new)

        put, add = FolderBlobs.put, Adapters.add
        if what == "blobs":
            monkeypatch.setattr(FolderBlobs, "put", put_later)
        else:
            monkeypatch.setattr(Adapters, "add", add_later)
        with running(tmp_path / "data", **several) as place:
            made = order(place, archive("a.mp4")).json()
            assert ended(place, made["id"])["status"] == "succeeded"
            assert refused == [made["id"]]
            assert place.ended(place.create(loras=["style"])["id"])["status"] == "succeeded"

    def test_cancelled_at_the_last_moment_it_is_not_offered(
        self, several: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def share(shared: Shared, book: Book, training: Training) -> None:
            real(shared, book, training)
            book.end(training.id, "canceled")

        real = Shared.share
        monkeypatch.setattr(Shared, "share", share)
        with running(tmp_path / "data", **several) as place:
            made = order(place, archive("a.mp4")).json()
            assert ended(place, made["id"])["status"] == "canceled"
            shared = place.services.shared
            assert shared is not None
            until(lambda: not shared.all())
            assert place.services.blobs.size(made["id"]) is None


def test_the_config_is_one_that_finetune_reads() -> None:
    from mochi.training.config import Config

    given = {"steps": 7, "rank": 4, "alpha": None, "layers": ["attention", "mlp"], "lr": 1e-5}
    given |= {"batch": 2, "caption_dropout": 0.1, "seed": 3}
    training = Training(
        id=new_id(), account="a", model=MODEL, version="v", destination="a/b", input=given
    )
    read = Config.of(tomllib.loads(config_text(training, 'a "model" \U0001f600')))
    assert (read.model.name, read.lora.alpha, read.optimiser.lr) == (
        'a "model" \U0001f600',
        4.0,
        1e-5,
    )
    assert (read.training.steps, read.lora.layers) == (7, ("attention", "mlp"))


def test_the_book_survives_what_is_broken(tmp_path: Path) -> None:
    book = Book(tmp_path)
    training = Training(
        id=new_id(), account="a", model=MODEL, version="v", destination="a/b", input={}
    )
    book.add(training, lambda path: path.touch())
    (tmp_path / "zzz").mkdir()
    (tmp_path / "zzz" / "training.json").write_text("{")
    again = Book(tmp_path)
    assert [it.id for it in again.unfinished()] == [training.id]
    assert again.end(training.id, "failed", error="x") is not None
    assert again.end(training.id, "succeeded") is None
    history = tmp_path / "history.jsonl"
    history.write_text('{"kind": "step", "step": 4}\n{"kind": "step", "st')
    assert (last_step(history), last_step(tmp_path / "none")) == (4, 0)
