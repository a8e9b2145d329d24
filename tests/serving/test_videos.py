"""The videos dialect over the same jobs."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.serving.harness import HELD, Running, running, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data")) as server:
        yield server


def create(server: Running, prompt: str = "a circle", **fields: Any) -> dict[str, Any]:
    parts = {name: (None, str(value)) for name, value in {"prompt": prompt, **fields}.items()}
    answer = server.http.post("/v1/videos", files=parts)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ended(server: Running, job_id: str) -> dict[str, Any]:
    def look() -> Any:
        video = server.http.get(f"/v1/videos/{job_id}").json()
        return video if video["status"] in ("completed", "failed") else None

    return dict(until(look))


def test_a_video_by_multipart(server: Running) -> None:
    made = create(
        server, "real circle", model="mochi-1", seconds="2", size="64x48", num_inference_steps=3
    )
    assert made["object"] == "video"
    assert made["status"] in ("queued", "in_progress")
    assert made["size"] == "64x48"
    done = ended(server, made["id"])
    assert (done["status"], done["progress"], done["seconds"]) == ("completed", 100, "2.08333")
    assert server.get(made["id"])["metrics"]["frames"] == 25  # 2 s at 12 a second is 24
    content = server.http.get(f"/v1/videos/{made['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    thumbnail = server.http.get(f"/v1/videos/{made['id']}/content?variant=thumbnail")
    assert thumbnail.content.startswith(b"\x89PNG")


def test_the_same_by_json(server: Running) -> None:
    body = {"prompt": "a circle", "seconds": 1, "seed": 5, "model": "genmoai/mochi-1"}
    made = server.http.post("/v1/videos", json=body).json()
    assert server.get(made["id"])["input"]["seed"] == 5
    assert server.get(made["id"])["source"] == "videos"


def test_listing_forwards_and_backwards(server: Running) -> None:
    made = [create(server)["id"] for _ in range(3)]
    newest = server.http.get("/v1/videos", params={"limit": 2}).json()
    assert [it["id"] for it in newest["data"]] == [made[2], made[1]]
    assert newest["has_more"]
    after = {"after": newest["last_id"], "limit": 1}
    assert server.http.get("/v1/videos", params=after).json()["data"][0]["id"] == made[0]
    forwards = {"order": "asc", "after": made[0]}
    page = server.http.get("/v1/videos", params=forwards).json()
    assert [it["id"] for it in page["data"]] == made[1:]
    assert not page["has_more"]


def test_deleting_a_running_one_cancels_it(server: Running) -> None:
    made = create(server, HELD)
    until(lambda: server.get(made["id"])["status"] == "processing")
    answer = server.http.delete(f"/v1/videos/{made['id']}").json()
    assert answer == {"id": made["id"], "object": "video.deleted", "deleted": True}
    assert server.http.get(f"/v1/videos/{made['id']}").status_code == 404


def test_one_that_ends_while_it_is_deleted_is_gone_too(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = server.http.post("/v1/videos", json={"prompt": HELD}).json()
    store = server.services.store
    cancel = store.cancel

    def too_late(job_id: str, account: str | None = None) -> bool:
        cancel(job_id, account)
        return False  # it had ended by then

    monkeypatch.setattr(store, "cancel", too_late)
    assert server.http.delete(f"/v1/videos/{made['id']}").json()["deleted"]
    assert server.http.get(f"/v1/videos/{made['id']}").status_code == 404


def test_a_cancelled_one_has_failed(server: Running) -> None:
    made = create(server, HELD)
    server.http.post(f"/v1/predictions/{made['id']}/cancel")
    assert ended(server, made["id"])["error"]["code"] == "canceled"
    answer = server.http.get(f"/v1/videos/{made['id']}/content")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "not_ready"


def test_a_failed_one_says_why(server: Running) -> None:
    made = create(server, "fail please")
    error = ended(server, made["id"])["error"]
    assert error == {"code": "sampling", "message": "it went wrong"}


def test_a_remix_keeps_everything_but_the_prompt(server: Running) -> None:
    made = create(server, "a circle", size="32x32", seed=3)
    answer = server.http.post(f"/v1/videos/{made['id']}/remix", json={"prompt": "a square"})
    remixed = answer.json()
    assert remixed["remixed_from_video_id"] == made["id"]
    assert remixed["prompt"] == "a square"
    assert server.get(remixed["id"])["input"]["seed"] == 3
    assert remixed["size"] == "32x32"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"size": "big"}, "size"),
        ({"size": "65x64"}, "width"),
        ({"seconds": "60"}, "seconds"),
        ({"seconds": "nan"}, "seconds"),
        ({"seed": "x"}, "seed"),
        ({"surprise": "1"}, "surprise"),
    ],
)
def test_errors_have_the_dialects_shape(server: Running, fields: Any, param: str) -> None:
    parts = {name: (None, value) for name, value in {"prompt": "a circle", **fields}.items()}
    answer = server.http.post("/v1/videos", files=parts)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"]


def test_an_unknown_model_and_odd_bodies(server: Running) -> None:
    parts = {"prompt": (None, "a circle"), "model": (None, "sora-9")}
    assert server.http.post("/v1/videos", files=parts).status_code == 404
    picture = {"prompt": (None, "a"), "input_reference": ("x.png", b"x")}
    assert server.http.post("/v1/videos", files=picture).status_code == 422
    assert server.http.post("/v1/videos", content=b"x").status_code == 415
    headers = {"Content-Type": "application/json"}
    assert server.http.post("/v1/videos", content=b"{", headers=headers).status_code == 400
    assert server.http.post("/v1/videos", json=[]).status_code == 422
