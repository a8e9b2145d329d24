"""Files: uploads, ranges, signed addresses, and what is made from a video."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.serving.harness import Running, running

from mochi.serving.links import Links


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data"), upload_bytes=100_000) as server:
        yield server


@pytest.fixture(scope="module")
def video(server: Running) -> dict[str, Any]:
    """A prediction whose output is a real mp4."""
    made = server.create("real circle", wait=20)
    assert made["status"] == "succeeded"
    return made


def upload(server: Running, content: bytes, name: str = "a.bin", **data: Any) -> Any:
    return server.http.post("/v1/files", files={"content": (name, content)}, data=data)


def test_an_upload_comes_back_as_it_was(server: Running) -> None:
    answer = upload(server, b"\x89PNG\r\n\x1a\n...", "../../x/pic.html", metadata='{"a": 1}')
    assert answer.status_code == 201
    file = answer.json()
    assert (file["name"], file["content_type"]) == ("pic.html", "image/png")
    assert file["metadata"] == {"a": 1}
    assert server.http.get(f"/v1/files/{file['id']}").json()["checksums"] == file["checksums"]
    fetched = server.client().get(file["urls"]["get"])
    assert fetched.content == b"\x89PNG\r\n\x1a\n..."
    assert fetched.headers["content-disposition"].startswith("attachment")
    assert fetched.headers["x-content-type-options"] == "nosniff"
    assert file["id"] in [it["id"] for it in server.http.get("/v1/files").json()["results"]]
    assert server.http.delete(f"/v1/files/{file['id']}").status_code == 204
    assert server.http.get(file["urls"]["get"]).status_code == 404


def test_large_and_odd_uploads_are_refused(server: Running) -> None:
    assert upload(server, b"x" * 100_001).status_code == 413
    assert upload(server, b"x" * 500_000).status_code == 413

    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="content"; filename="a"\r\n\r\n'
        for _ in range(50):
            yield b"x" * 10_000

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert server.http.post("/v1/files", content=endless(), headers=headers).status_code == 413
    assert upload(server, b"x", metadata="[1]").status_code == 422
    assert upload(server, b"x", metadata="[" * 5000).status_code == 422
    assert server.http.post("/v1/files", json={}).status_code == 415
    assert server.http.post("/v1/files", data={"content": "x"}).status_code == 415
    assert server.http.post("/v1/files", files={"x": ("y", b"z")}).status_code == 422
    body = {"input": {"prompt": "x" * 2_000_000}}
    assert server.http.post("/v1/predictions", json=body).status_code == 413
    assert list(server.services.work.iterdir()) == []


@settings(max_examples=25)
@given(name=st.text(max_size=60))
def test_no_name_becomes_a_path(server: Running, name: str) -> None:
    before = set(server.services.settings.data.rglob("*"))
    filename = name.encode("utf-8", "replace").decode()
    answer = server.http.post("/v1/files", files={"content": (filename, b"x")})
    if answer.status_code == 201:  # a name may end the part's header, and then it is no file
        file = answer.json()
        assert "/" not in file["name"]
        new = set(server.services.settings.data.rglob("*")) - before
        assert {path.name for path in new} <= {file["id"], file["id"][0], "mochi.db-wal"}
        server.http.delete(f"/v1/files/{file['id']}")


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("bytes=0-9", 0, 10), ("bytes=5-", 5, None), ("bytes=-7", -7, None), ("bytes=3-3", 3, 4)],
)
def test_ranges(
    server: Running, video: dict[str, Any], wanted: str, start: int, stop: int | None
) -> None:
    whole = server.http.get(video["output"]).content
    part = server.http.get(video["output"], headers={"Range": wanted})
    assert part.status_code == 206
    assert part.content == whole[start:stop]
    size = len(whole)
    first = start % size
    assert part.headers["content-range"] == f"bytes {first}-{first + len(part.content) - 1}/{size}"


def test_ranges_that_are_none(server: Running, video: dict[str, Any]) -> None:
    whole = server.http.get(video["output"])
    assert whole.headers["accept-ranges"] == "bytes"
    for odd in ("bytes=", "bytes=a-b", "bytes=0-1,4-5", "lines=1-2", "bytes=-"):
        assert server.http.get(video["output"], headers={"Range": odd}).status_code == 200
    for outside in ("bytes=999999999-", "bytes=-0", "bytes=9-3"):
        answer = server.http.get(video["output"], headers={"Range": outside})
        assert answer.status_code == 416
    etag = whole.headers["etag"]
    assert server.http.get(video["output"], headers={"If-None-Match": etag}).status_code == 304
    stale = {"Range": "bytes=0-1", "If-Range": '"other"'}
    assert server.http.get(video["output"], headers=stale).status_code == 200


def test_variants_of_a_video(server: Running, video: dict[str, Any]) -> None:
    def picture(variant: str) -> Image.Image:
        answer = server.client().get(video["variants"][variant])
        assert answer.status_code == 200
        return Image.open(io.BytesIO(answer.content))

    assert picture("thumbnail").size == picture("last_frame").size == (64, 64)
    assert picture("spritesheet").size == (4 * 64, 4 * 64)
    gif = picture("gif")
    assert gif.format == "GIF"
    assert gif.n_frames == 25
    file_id = video["output"].partition("/files/")[2].partition("/")[0]
    assert server.services.blobs.size(f"{file_id}.gif")
    assert server.http.delete(f"/v1/predictions/{video['id']}").status_code == 204
    assert server.services.blobs.size(f"{file_id}.gif") is None


def test_a_signed_address_is_for_one_thing_only(server: Running) -> None:
    made = server.create("a circle", wait=20)
    address = made["output"]
    file_id = address.partition("/files/")[2].partition("/")[0]
    other = upload(server, b"secret").json()["id"]
    server.services.tokens.create(["run"], "somebody")  # from now on tokens are needed
    stranger = server.client()
    assert stranger.get(address).status_code == 200
    assert stranger.get(address.replace(file_id, other)).status_code == 404
    assert stranger.get(address + "&variant=gif").status_code == 404
    assert stranger.get(address.replace("expires=", "expires=9")).status_code == 404
    assert stranger.get(address.partition("?")[0]).status_code == 401
    past = Links(server.services.tokens.secret("links"), 60, lambda: 1e9).path(file_id)
    assert stranger.get(past).status_code == 404


def test_metadata_is_json_that_comes_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("data")) as server:
        for odd in ('{"half": "\\ud83d"}', '{"x": NaN}', '{"x": 1e999}'):
            assert upload(server, b"x", metadata=odd).status_code == 422
        about = {"nul": "\0", "deep": [[[{"x": None}]]]}
        answer = upload(server, b"x", metadata=json.dumps(about))
        assert answer.status_code == 201
        assert server.http.get(f"/v1/files/{answer.json()['id']}").json()["metadata"] == about
