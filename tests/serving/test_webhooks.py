"""Webhooks arrive, signed, and go nowhere that they must not."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from tests.serving.harness import PROMPT, running, until

from mochi.core.errors import RequestError
from mochi.serving.guard import Policy, Target
from mochi.serving.webhooks import post

HOSTILE = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fc00::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://192.0.2.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://inner.example/",
    "http://mixed.example/",
    "ftp://example.org/",
    "file:///etc/passwd",
    "gopher://example.org/",
    "javascript:alert(1)",
    "//example.org/",
    "http://",
    "http://user@example.org/",
    "http://example.org:22/",
    "http://example.org:99999/",
    "http://example.org\\@127.0.0.1/",
    "http://exa mple.org/",
    "http://example.org/\r\nHost: x",
    "http://\uff45xample.org/",
    "http://[::1/",
    "http://example.org/" + "a" * 3000,
    "",
]
NAMES = {
    "example.org": ["93.184.216.34"],
    "inner.example": ["10.1.2.3"],
    "mixed.example": ["93.184.216.34", "127.0.0.1"],
    "localhost": ["127.0.0.1"],
}


def resolver(host: str, port: int) -> Sequence[str]:
    return NAMES.get(host, [host])


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_address_is_refused(url: str) -> None:
    with pytest.raises(RequestError):
        Policy(["*"], resolver).target(url)


@pytest.mark.parametrize("url", [None, 5, ["http://example.org/"], {"a": 1}])
def test_what_is_no_text_is_no_address(url: object) -> None:
    with pytest.raises(RequestError):
        Policy(["*"], resolver).check(url)


def test_a_public_address_is_dialled_as_it_was_checked() -> None:
    target = Policy(["*"], resolver).target("https://example.org:8443/hook?a=1#b")
    assert target == Target("https", "example.org", 8443, "93.184.216.34", "/hook?a=1")
    assert target.authority == "example.org:8443"


def test_a_name_that_changes_its_mind_leads_nowhere() -> None:
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    policy = Policy(["*"], lambda host, port: answers.pop(0))
    assert policy.target("http://rebinding.example/").address == "93.184.216.34"
    with pytest.raises(RequestError, match="public"):
        policy.target("http://rebinding.example/")


def test_only_named_hosts_where_names_are_set() -> None:
    policy = Policy(["hooks.example.org"], resolver)
    assert policy.check("https://hooks.example.org/x")
    with pytest.raises(RequestError, match="does not send to"):
        policy.check("https://example.org/")
    with pytest.raises(RequestError, match="sends no webhooks"):
        Policy([], resolver).check("https://example.org/")


class Receiver:
    """A server for webhooks: what came, and what it answers."""

    def __init__(self) -> None:
        self.came: list[tuple[int, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.usual = 204
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.answers.pop(0) if receiver.answers else receiver.usual
                receiver.came.append((status, dict(self.headers), body))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{receiver.port}/other")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def kinds(self) -> set[str]:
        return {headers["webhook-id"].partition("-")[2] for _, headers, _ in self.came}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def create(server: Any, url: str, **more: Any) -> str:
    body = {"input": {"prompt": PROMPT}, "webhook": url, **more}
    answer = server.http.post("/v1/predictions", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_webhooks_tell_the_story_signed(receiver: Receiver, tmp_path: Path) -> None:
    private = {"webhook_hosts": ["127.0.0.1"], "webhook_private": True}
    with running(tmp_path, **private) as server:
        job_id = create(server, receiver.url)
        secret = server.http.get("/v1/webhooks/default/secret").json()["key"]
        until(lambda: receiver.kinds == {"start", "logs", "output", "completed"})
    for _, headers, body in receiver.came:
        seen = Webhook(secret).verify(body.decode(), {k.lower(): v for k, v in headers.items()})
        assert seen["id"] == job_id
    assert json.loads(receiver.came[-1][2])["urls"]["get"].startswith("http://127.0.0.1:")


def test_the_last_one_is_sent_until_it_arrives(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers, receiver.usual = [500, 302], 500
    private = {"webhook_hosts": ["127.0.0.1"], "webhook_private": True}
    with running(tmp_path, **private) as server:
        create(server, receiver.url, webhook_events_filter=["completed"])
        until(lambda: len(receiver.came) >= 2)
    receiver.usual = 204
    with running(tmp_path, **private):  # over a restart too
        until(lambda: receiver.came[-1][0] == 204)
    ids = {headers["webhook-id"] for _, headers, _ in receiver.came}
    assert len(ids) == 1
    assert all("other" not in headers["Host"] for _, headers, _ in receiver.came)


def test_nothing_reaches_this_machine_without_permission(
    receiver: Receiver, tmp_path: Path
) -> None:
    with running(tmp_path, webhook_hosts=["*"]) as server:
        for url in (receiver.url, receiver.url.replace("127.0.0.1", "localhost")):
            body = {"input": {"prompt": PROMPT}, "webhook": url}
            assert server.http.post("/v1/predictions", json=body).status_code == 422
        target = server.services.policy
        with pytest.raises(RequestError):
            target.target(receiver.url)
    assert receiver.came == []


def test_a_receiver_that_is_not_there_is_an_error_of_the_networks() -> None:
    with socket.socket() as shut:  # nobody listens there, and nobody else can
        shut.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            post(Target("http", "x", shut.getsockname()[1], "127.0.0.1", "/"), b"", {})
