"""Requests that mean harm: bombs of every kind, paths, pickles, and other people's things."""

import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest
from tests.serving.harness import PROMPT, Running, running

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data"), requests_per_minute=0) as server:
        yield server


def png_bomb() -> bytes:
    """100,000 pixels square, in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 3_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zip_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"\0" * 20_000_000)
    return stream.getvalue()


class Canary:
    """What a pickle would do to whoever opens it."""

    def __reduce__(self) -> Any:
        return (open, ("canary-of-a-pickle", "w"))


@pytest.mark.parametrize(
    "content",
    [
        png_bomb(),
        zip_bomb(),
        gzip.compress(b"\0" * 20_000_000),
        pickle.dumps(Canary()),
        b"\0\0\0\x18ftypmp42" + b"\xff" * 2000,
        b"GIF89a\xff\xff\xff\xff" + b"\0" * 100,
    ],
    ids=["png", "zip", "gzip", "pickle", "mp4", "gif"],
)
def test_what_is_uploaded_is_never_opened_in_this_process(server: Running, content: bytes) -> None:
    """It comes back byte for byte, as an attachment, and costs no more memory than its size."""
    process = psutil.Process()
    before = process.memory_info().rss
    answer = server.http.post("/v1/files", files={"content": ("model.pt", content)})
    assert answer.status_code == 201
    file = answer.json()
    back = server.http.get(file["urls"]["get"])
    assert back.content == content
    assert back.headers["content-disposition"].startswith("attachment")
    variant = server.http.get(f"/v1/files/{file['id']}/download", params={"variant": "gif"})
    assert variant.status_code in (404, 409)  # what is no video has no pictures
    assert process.memory_info().rss - before < 50_000_000
    server.http.delete(f"/v1/files/{file['id']}")


def nested(opening: str, closing: str, depth: int) -> bytes:
    return f'{{"input": {opening * depth}{closing * depth}}}'.encode()


@pytest.mark.parametrize(
    "content",
    [
        nested("[", "]", 100_000),
        nested('{"a":', "}", 100_000).replace(b":}", b":1}"),
        b'{"input": {"prompt": "a", "seed": ' + b"9" * 50_000 + b"}}",
        b'{"input": {"prompt": "a", "guidance_scale": 1e' + b"9" * 5_000 + b"}}",
        b'{"input": {"prompt": "a", "guidance_scale": NaN}}',
        b'{"input": {"prompt": "\\ud800"}}',
        b'{"input": {"prompt": "a\\u0000b"}}',
        b'{"input": {"prompt": "a"}, "input": {"prompt": 3}}',
        b"[" * 200_000,
        b"\xff\xfe{\0}\0",
        b"",
        b"null",
    ],
    ids=[
        "lists", "objects", "digits", "exponent", "nan", "half", "nul", "twice", "open", "utf-16",
        "nothing", "null",
    ],
)  # fmt: skip
def test_a_body_that_is_a_bomb_is_refused_in_words(server: Running, content: bytes) -> None:
    for path in ("/v1/predictions", "/v1/estimates", "/v1/videos", "/v1/predictions/batch"):
        answer = server.http.post(path, content=content, headers=JSON)
        assert 400 <= answer.status_code < 500 or b"u0000" in content, (path, answer.text[:500])
        assert answer.status_code < 500, (path, answer.text[:500])
        assert len(answer.content) < 20_000


def test_a_compressed_body_is_not_unpacked(server: Running) -> None:
    """HTTP has no limits for it, so we do not take it."""
    packed = gzip.compress(json.dumps({"input": {"prompt": "a" * 5_000_000}}).encode())
    headers = JSON | {"Content-Encoding": "gzip"}
    answer = server.http.post("/v1/predictions", content=packed, headers=headers)
    assert 400 <= answer.status_code < 500


def test_many_small_parts_and_long_headers(server: Running) -> None:
    parts = [("content", (f"{number}", b"x")) for number in range(2000)]
    assert 400 <= server.http.post("/v1/files", files=parts).status_code < 500
    fields = {f"f{number}": "x" for number in range(3000)}
    answer = server.http.post("/v1/videos", data=fields)
    assert 400 <= answer.status_code < 500
    with suppress(httpx.TransportError):  # hung up on, which is right too
        answer = server.http.get("/v1/predictions", headers={"X-Long": "a" * 5_000_000})
        assert 400 <= answer.status_code < 500
    assert server.http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "named",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "genmoai/../../x",
        "https://example.org/model.pt",
        "evil/pickle.pt",
        "genmoai/mochi-1:" + "a" * 63,
        "genmoai/mochi-1\0",
        "nano",
    ],
)
def test_no_request_names_a_path_or_a_model_of_elsewhere(server: Running, named: str) -> None:
    for body in ({"version": named}, {"model": named}):
        answer = server.http.post("/v1/predictions", json={"input": {"prompt": "a"}, **body})
        assert answer.status_code in (404, 422), answer.text
    for field in ("model", "weights", "source", "checkpoint", "lora", "path", "output"):
        answer = server.http.post("/v1/predictions", json={"input": {"prompt": "a", field: named}})
        assert answer.status_code == 422, (field, answer.text)
    for path in (f"/v1/models/{named}", f"/v1/files/{named}", f"/v1/files/{named}/download",
                 f"/v1/predictions/{named}", f"/static/{named}", f"/p/{named}"):  # fmt: skip
        try:
            answer = server.http.get(path)
        except httpx.InvalidURL:
            continue
        assert answer.status_code in (200, 400, 404, 422), (path, answer.text)
        assert b"root:" not in answer.content


def test_as_large_as_may_be_is_still_checked(server: Running) -> None:
    """What would take more than the device has is refused before it is enqueued."""
    largest = {"num_frames": 170, "width": 848, "height": 848, "num_inference_steps": 200}
    answer = server.http.post("/v1/predictions", json={"input": {"prompt": "a", **largest}})
    assert answer.status_code == 422
    assert answer.json()["invalid_fields"][0]["type"] == "memory"
    for field, value in (("num_frames", 10**9), ("width", 10**6), ("num_inference_steps", 10**9)):
        answer = server.http.post("/v1/predictions", json={"input": {"prompt": "a", field: value}})
        assert answer.status_code == 422


def test_batches_and_pages_of_others_are_empty(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running(tmp_path_factory.mktemp("data"), requests_per_minute=0) as server:
        alice, bob = (
            server.client(server.services.tokens.create(["run"], name)) for name in ("alice", "bob")
        )
        body = {"inputs": [{"prompt": PROMPT}, {"prompt": PROMPT}]}
        made = alice.post("/v1/predictions/batch", json=body).json()
        assert len(made["predictions"]) == 2
        theirs = bob.get("/v1/predictions", params={"batch": made["batch"]})
        assert theirs.json()["results"] == []
        first = alice.get("/v1/predictions", params={"limit": 1}).json()
        cursor = first["next"].partition("cursor=")[2].partition("&")[0]
        assert bob.get("/v1/predictions", params={"cursor": cursor}).json()["results"] == []
        for client in (alice, bob):
            client.close()
