"""Who may do what, and what strangers find out."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.serving.harness import PROMPT, Running, running, until

from mochi.serving.app import describe, make_app


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """No token: whoever is on this machine."""
    with running(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two accounts, alice and bob."""
    with running(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="module")
def alice(server: Running) -> httpx.Client:
    return server.client(server.services.tokens.create(["run"], "alice"))


@pytest.fixture(scope="module")
def bob(server: Running) -> httpx.Client:
    return server.client(server.services.tokens.create(["admin"], "bob"))


def made(client: httpx.Client) -> dict[str, Any]:
    body = {"input": {"prompt": PROMPT}}
    answer = client.post("/v1/predictions", json=body, headers={"Prefer": "wait"})
    assert answer.status_code == 201
    return dict(answer.json())


def routes(server: Running) -> list[tuple[str, str]]:
    paths = describe(make_app(server.services))["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_every_route_of_the_api_needs_a_token(server: Running, alice: httpx.Client) -> None:
    assert alice.get("/v1/account").json()["username"] == "alice"
    public = {"/v1/shared/{job_id}", "/v1/server", "/healthz", "/readyz"}
    stranger, wrong = server.client(), server.client("mochi_" + "a" * 26 + "_" + "a" * 52)
    for method, path in routes(server):
        if path not in public:
            address = re.sub(r"\{\w+\}", "a" * 26, path)
            for client in (stranger, wrong):
                answer = client.request(method, address)
                assert answer.status_code == 401, (method, path, answer.text)
    assert stranger.get("/v1/server").json() == {
        "version": alice.get("/v1/server").json()["version"],
        "auth": True,
    }


def test_what_is_anothers_is_not_there(
    server: Running, alice: httpx.Client, bob: httpx.Client
) -> None:
    """Every route with an id, tried by another account with all scopes."""
    job = made(alice)
    upload = alice.post("/v1/files", files={"content": ("a", b"x")}).json()["id"]
    output = job["output"].partition("/files/")[2].partition("/")[0]
    tried = 0
    for method, path in routes(server):
        ids = {"job_id": [job["id"]], "file_id": [upload, output]}
        for name, values in ids.items():
            if f"{{{name}}}" in path:
                for value in values:
                    body = {"prompt": PROMPT} if path.endswith("remix") else None
                    address = path.replace(f"{{{name}}}", value)
                    answer = bob.request(method, address, json=body)
                    assert answer.status_code == 404, (method, address, answer.text)
                    tried += 1
    assert tried > 15
    assert bob.get("/v1/predictions").json()["results"] == []
    assert bob.get("/v1/videos").json()["data"] == []
    assert bob.get("/v1/files").json()["results"] == []
    assert bob.get("/v1/videos", params={"after": job["id"]}).status_code == 404
    assert alice.get(f"/v1/predictions/{job['id']}").json()["status"] == "succeeded"
    assert alice.get(f"/v1/files/{upload}").status_code == 200


def test_keys_of_two_accounts_do_not_meet(alice: httpx.Client, bob: httpx.Client) -> None:
    body = {"input": {"prompt": PROMPT}}
    headers = {"Idempotency-Key": "same"}
    ids = [
        it.post("/v1/predictions", json=body, headers=headers).json()["id"] for it in (alice, bob)
    ]
    assert ids[0] != ids[1]


def test_scopes(server: Running, alice: httpx.Client) -> None:
    job = made(alice)
    reader = server.client(server.services.tokens.create(["read"], "alice"))
    assert reader.get(f"/v1/predictions/{job['id']}").status_code == 200
    for answer in (
        reader.post("/v1/predictions", json={"input": {"prompt": PROMPT}}),
        reader.post(f"/v1/predictions/{job['id']}/cancel"),
        reader.delete(f"/v1/predictions/{job['id']}"),
        reader.get("/metrics"),
    ):
        assert answer.status_code == 403
    assert alice.get("/metrics").status_code == 403
    watcher = server.client(server.services.tokens.create(["metrics"], "prometheus"))
    assert "mochi_queue_jobs" in watcher.get("/metrics").text
    assert watcher.get("/v1/predictions").status_code == 403


def test_both_words_for_a_token(server: Running) -> None:
    token = server.services.tokens.create(["read"])
    for header in (f"Bearer {token}", f"Token {token}", f"bearer {token}"):
        answer = server.client().get("/v1/account", headers={"Authorization": header})
        assert answer.status_code == 200


def test_a_revoked_token_is_worthless_at_once(server: Running) -> None:
    token = server.services.tokens.create(["read"])
    client = server.client(token)
    assert client.get("/v1/account").status_code == 200
    server.services.tokens.revoke(token.split("_")[1])
    assert client.get("/v1/account").status_code == 401


def test_tokens_are_kept_as_hashes(server: Running) -> None:
    token = server.services.tokens.create(["read"])
    folder = server.services.settings.data
    content = b"".join(path.read_bytes() for path in folder.glob("mochi.db*"))
    assert token.split("_")[1].encode() in content
    assert token.split("_")[2].encode() not in content


def test_a_page_elsewhere_cannot_drive_the_server(open_server: Running) -> None:
    body = {"input": {"prompt": PROMPT}}
    strange = {"Origin": "https://evil.example"}
    client = open_server.client()
    assert client.post("/v1/predictions", json=body, headers=strange).status_code == 403
    assert client.post("/v1/predictions", json=body, headers={"Origin": "null"}).status_code == 403
    own = {"Origin": open_server.url}
    assert client.post("/v1/predictions", json=body, headers=own).status_code == 202
    rebound = {"Host": "evil.example"}
    assert client.get("/v1/predictions", headers=rebound).status_code == 403
    for host in ("evil.example:80", "[::1", "127.0.0.1.evil.example", ""):
        assert client.get("/v1/account", headers={"Host": host}).status_code in (400, 403)
    text = {"Content-Type": "text/plain"}
    content = b'{"input": {"prompt": "a"}}'
    assert client.post("/v1/predictions", content=content, headers=text).status_code == 422
    assert "access-control-allow-origin" not in client.get("/v1/account", headers=strange).headers


def test_pages_are_sent_with_a_strict_policy(open_server: Running) -> None:
    for path in ("/", f"/p/{'a' * 26}"):
        answer = open_server.http.get(path)
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert open_server.http.get("/static/js/main.js").status_code == 200
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert open_server.http.get(path).status_code == 404


def test_too_many_requests(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("data"), requests_per_minute=5) as server:
        answers = [server.http.get("/v1/account") for _ in range(7)]
        assert [it.status_code for it in answers] == [200] * 5 + [429] * 2
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60


def test_probes(open_server: Running) -> None:
    assert open_server.http.get("/healthz").json() == {"status": "ok"}
    ready = until(lambda: (it := open_server.http.get("/readyz")).status_code == 200 and it)
    assert ready.json()["checks"] == {"database": "ok", "blobs": "ok", "runner": "ok"}


def test_safety_refuses_and_writes_it_down(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("data"), safety="block") as server:
        for prompt in ("a Snuff  film", "a snuff-film!", "5nuff f1lm"):
            answer = server.http.post("/v1/predictions", json={"input": {"prompt": prompt}})
            assert answer.status_code == 422
            assert answer.json()["invalid_fields"][0]["type"] == "refused"
        assert server.http.post("/v1/videos", json={"prompt": "a snuff film"}).status_code == 422
        server.create("a film about snuffling", wait=20)
        lines = server.services.audit.latest()
    assert [line["action"] for line in lines] == ["succeeded", *["refused"] * 4]
    assert "prompt_sha256" in lines[1]["detail"]


def test_retention_removes_every_copy(tmp_path_factory: pytest.TempPathFactory) -> None:
    from mochi.serving.housekeeping import clean

    with running(tmp_path_factory.mktemp("data"), retention_days=1) as server:
        job = server.create(wait=20)
        clean(server.services)
        assert server.get(job["id"])["status"] == "succeeded"
        server.services.database.clock = lambda: 4e9
        clean(server.services)
        assert server.http.get(f"/v1/predictions/{job['id']}").status_code == 404
        assert server.services.blobs.keys() == []
