"""The predictions dialect over a whole server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving.harness import HELD, PROMPT, Running, events_of, running, until

from mochi.serving.settings import ServeSettings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data")) as server:
        yield server


def test_a_prediction_from_creation_to_its_video(server: Running) -> None:
    made = server.create(seed=7, num_frames=27)
    assert made["status"] == "starting"
    assert len(made["id"]) == 26
    assert made["input"] == {"prompt": PROMPT, "seed": 7, "num_frames": 27}
    done = server.ended(made["id"])
    assert (done["status"], done["error"]) == ("succeeded", None)
    assert done["model"] == "genmoai/mochi-1"
    assert done["metrics"]["frames"] == 25
    assert "seed 7\nnum_frames=27 is not 6k+1: 25 frames are made\n" in done["logs"]
    assert "100%|" in done["logs"]
    video = server.client().get(done["output"])
    assert video.status_code == 200
    assert video.headers["content-type"] == "video/mp4"


def test_a_seed_is_drawn_and_told(server: Running) -> None:
    first, second = server.create(), server.create()
    assert first["input"]["seed"] != second["input"]["seed"]


def test_waiting_for_the_end(server: Running) -> None:
    body = {"input": {"prompt": PROMPT}}
    answer = server.http.post("/v1/predictions", json=body, headers={"Prefer": "wait"})
    assert answer.status_code == 201
    assert answer.json()["status"] == "succeeded"


def test_a_wait_that_runs_out_says_starting(server: Running) -> None:
    body = {"input": {"prompt": HELD}}
    answer = server.http.post("/v1/predictions", json=body, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert answer.json()["status"] == "starting"
    job_id = answer.json()["id"]
    until(lambda: server.get(job_id)["status"] == "processing")
    assert server.http.post(f"/v1/predictions/{job_id}/cancel").json()["status"] == "canceled"


@pytest.mark.parametrize("header", ["wait=0", "wait=61", "wait=x"])
def test_a_wait_that_is_none(server: Running, header: str) -> None:
    body = {"input": {"prompt": PROMPT}}
    answer = server.http.post("/v1/predictions", json=body, headers={"Prefer": header})
    assert answer.status_code == 400


def test_all_wrong_fields_are_told_at_once(server: Running) -> None:
    given = {
        "prompt": " ",
        "num_frames": 999,
        "num_inference_steps": 0,
        "guidance_scale": "x",
        "width": 65,
        "solver": "magic",
        "sed": 1,
        "seed": None,
    }
    answer = server.http.post("/v1/predictions", json={"input": given})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 422
    fields = {entry["field"]: entry for entry in problem["invalid_fields"]}
    assert set(fields) == {f"input.{name}" for name in given if name != "seed"}
    assert fields["input.num_frames"]["nearest"] == "170"
    assert fields["input.width"]["nearest"] == "64 and 80"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": []},
        {"input": {}, "surprise": 1},
        {"input": {"prompt": PROMPT}, "version": "a" * 64},
        {"input": {"prompt": PROMPT}, "webhook": "https://example.org/"},
        {"input": {"prompt": PROMPT}, "webhook_events_filter": ["never"]},
        {"input": {"prompt": "half \ud83d"}},
        {"input": {"prompt": "nul \0"}},
        {"input": {"prompt": PROMPT, "guidance_scale": float("inf")}},
        {"input": {"prompt": PROMPT, "seed": 2**63}},
        {"input": {"prompt": PROMPT, "num_frames": True}},
    ],
)
def test_bad_bodies_are_422(server: Running, body: Any) -> None:
    text = json.dumps(body)
    headers = {"Content-Type": "application/json"}
    answer = server.http.post("/v1/predictions", content=text, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.json()["invalid_fields"]


def test_an_unknown_model_is_404_with_the_list(server: Running) -> None:
    answer = server.http.post("/v1/models/a/b/predictions", json={"input": {"prompt": PROMPT}})
    assert answer.status_code == 404
    assert answer.json()["models"] == ["genmoai/mochi-1"]


@pytest.mark.parametrize("kind", ["name", "name:digits", "digits", "path"])
def test_every_way_to_name_a_model(server: Running, kind: str) -> None:
    name, digits = "genmoai/mochi-1", "ab" * 32
    version = {"name": name, "name:digits": f"{name}:{digits}", "digits": digits}.get(kind)
    body: dict[str, Any] = {"input": {"prompt": PROMPT}}
    address = f"/v1/models/{name}/predictions" if kind == "path" else "/v1/predictions"
    if version:
        body["version"] = version
    answer = server.http.post(address, json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["version"] == digits


def test_a_key_makes_a_repeat_the_same(server: Running) -> None:
    body = {"input": {"prompt": PROMPT}}
    headers = {"Idempotency-Key": "one"}
    first = server.http.post("/v1/predictions", json=body, headers=headers)
    again = server.http.post("/v1/predictions", json=body, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    body["input"]["seed"] = "2"
    other = server.http.post("/v1/predictions", json={"input": {"prompt": "x"}}, headers=headers)
    assert other.status_code == 422


def test_an_sdks_repeat_without_a_key_is_found(server: Running) -> None:
    body = {"input": {"prompt": "a repeat"}}
    first = server.http.post("/v1/predictions", json=body)
    headers = {"X-Stainless-Retry-Count": "1"}
    again = server.http.post("/v1/predictions", json=body, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    fresh = server.http.post("/v1/predictions", json=body)
    assert fresh.json()["id"] != first.json()["id"]


def test_cancel_after(server: Running) -> None:
    body = {"input": {"prompt": PROMPT}}
    answer = server.http.post("/v1/predictions", json=body, headers={"Cancel-After": "5m"})
    assert answer.json()["deadline"] > answer.json()["created_at"]
    for wrong in ("1s", "soon", "99d", "-5m"):
        headers = {"Cancel-After": wrong}
        assert server.http.post("/v1/predictions", json=body, headers=headers).status_code == 400


def test_pages_by_cursor(server: Running) -> None:
    made = [server.create()["id"] for _ in range(5)]
    first = server.http.get("/v1/predictions", params={"limit": 2}).json()
    assert [it["id"] for it in first["results"]] == [made[4], made[3]]
    second = server.http.get(first["next"]).json()
    assert [it["id"] for it in second["results"]] == [made[2], made[1]]
    assert server.http.get("/v1/predictions", params={"cursor": "!!"}).status_code == 400


def test_a_batch_is_all_or_nothing(server: Running) -> None:
    inputs = [{"prompt": "one"}, {"prompt": "two", "fps": 0}]
    answer = server.http.post("/v1/predictions/batch", json={"inputs": inputs})
    assert answer.status_code == 422
    assert [it["field"] for it in answer.json()["invalid_fields"]] == ["inputs[1].fps"]
    inputs[1]["fps"] = 12
    headers = {"Idempotency-Key": "batch"}
    made = server.http.post("/v1/predictions/batch", json={"inputs": inputs}, headers=headers)
    assert made.status_code == 202
    again = server.http.post("/v1/predictions/batch", json={"inputs": inputs}, headers=headers)
    ids = [it["id"] for it in made.json()["predictions"]]
    assert [it["id"] for it in again.json()["predictions"]] == ids
    listed = server.http.get("/v1/predictions", params={"batch": made.json()["batch"]}).json()
    assert [it["id"] for it in listed["results"]] == ids[::-1]


def test_deleting_removes_every_copy(server: Running) -> None:
    done = server.ended(server.create()["id"])
    file_id = done["output"].partition("/files/")[2].partition("/")[0]
    assert server.services.blobs.size(file_id)
    assert server.http.delete(f"/v1/predictions/{done['id']}").status_code == 204
    assert server.http.get(f"/v1/predictions/{done['id']}").status_code == 404
    assert server.http.get(done["output"]).status_code == 404
    assert server.services.blobs.size(file_id) is None


def test_what_runs_is_not_deleted(server: Running) -> None:
    made = server.create(HELD)
    assert server.http.delete(f"/v1/predictions/{made['id']}").status_code == 409
    server.http.post(f"/v1/predictions/{made['id']}/cancel")
    until(lambda: server.http.delete(f"/v1/predictions/{made['id']}").status_code == 204)


def test_sharing_is_asked_for(server: Running) -> None:
    done = server.ended(server.create()["id"])
    address = f"/v1/shared/{done['id']}"
    assert server.http.get(address).status_code == 404
    url = server.http.put(f"/v1/predictions/{done['id']}/share").json()["url"]
    assert url == f"{server.url}/p/{done['id']}"
    seen = server.http.get(address).json()
    assert seen["output"]
    assert "logs" not in seen
    assert server.http.delete(f"/v1/predictions/{done['id']}/share").status_code == 204
    assert server.http.get(address).status_code == 404


def test_progress_is_live_and_resumed(server: Running) -> None:
    made = server.create("slow circle", num_inference_steps=8)
    address = f"/v1/predictions/{made['id']}/events"
    live = events_of(server.http, address)
    names = [name for _, name, _ in live]
    assert names.count("step") == 8
    assert names[-2:] == ["output", "done"]
    assert {"phase", "preview"} <= set(names)
    done = json.loads(live[-1][2])
    assert done["status"] == "succeeded"
    ids = [int(event_id) for event_id, name, _ in live if name != "queue"]
    assert ids == sorted(set(ids))
    third = [event_id for event_id, name, _ in live if name == "step"][2]
    rest = events_of(server.http, address, **{"Last-Event-ID": third})
    assert [name for _, name, _ in rest].count("step") == 5
    quiet = events_of(server.http, f"{address}?previews=0&last_event_id={third}")
    assert "preview" not in [name for _, name, _ in quiet]


def test_the_dialects_stream_has_its_events_alone(server: Running) -> None:
    good, bad = server.create(), server.create("fail please")
    said = events_of(server.http, f"/v1/predictions/{good['id']}/stream")
    assert {name for _, name, _ in said} <= {"logs", "output", "done"}
    assert [name for _, name, _ in said][-2:] == ["output", "done"]
    said = events_of(server.http, f"/v1/predictions/{bad['id']}/stream")
    assert [name for _, name, _ in said][-2:] == ["error", "done"]
    assert json.loads(said[-1][2]) == {"reason": "error"}


def test_a_failure_is_no_http_error(server: Running) -> None:
    made = server.create("fail please", wait=30)
    assert (made["status"], made["error"]) == ("failed", "[sampling] it went wrong")
    assert made["output"] is None


def test_queue_positions(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        first = server.create(HELD)
        until(lambda: server.get(first["id"])["status"] == "processing")
        waits = [server.create() for _ in range(3)]
        with server.http.stream("GET", f"/v1/predictions/{waits[2]['id']}/events") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: queue"
            said = json.loads(next(lines).partition(": ")[2])
        assert (said["position"], said["of"]) == (3, 3)


def test_a_full_queue_is_429_and_tells_when(tmp_path: Path) -> None:
    with running(tmp_path, waiting_limit=2) as server:
        first = server.create(HELD)
        until(lambda: server.get(first["id"])["status"] == "processing")
        server.create(), server.create()
        answer = server.http.post("/v1/predictions", json={"input": {"prompt": PROMPT}})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0


def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        runs = server.create(f"circle {tmp_path / 'go'}")
        until(lambda: server.get(runs["id"])["status"] == "processing")
        waits = server.create()
    (tmp_path / "go").touch()
    with running(tmp_path) as server:
        assert server.ended(runs["id"])["status"] == "succeeded"
        assert server.ended(waits["id"])["status"] == "succeeded"
        said = events_of(server.http, f"/v1/predictions/{runs['id']}/events")
        assert "retry" in [name for _, name, _ in said]


def test_two_servers_in_one_folder_are_refused(tmp_path: Path) -> None:
    from mochi.core.errors import OutputError
    from mochi.serving.services import open_services

    with running(tmp_path), pytest.raises(OutputError, match="another server"):
        open_services(ServeSettings(data=tmp_path))
