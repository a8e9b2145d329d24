"""Uploads that were made to hurt whoever reads them: the server reads none of them itself."""

import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.harness import Running, running

from mochi.core.errors import VideoError
from mochi.serving import decoding
from mochi.serving.decoding import decode_apart
from mochi.serving.examples import PAGE

CLIP = (PAGE / "examples" / "red-circle.mp4").read_bytes()


def gif(width: int, height: int, frames: int = 1) -> bytes:
    """A GIF of a few bytes a frame that says that it is as large as you like."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\0"
    return head + picture * frames + b"\x3b"


def mutated(seed: int) -> bytes:
    """A real clip with some of its bytes changed, mostly in its head."""
    chance, content = random.Random(seed), bytearray(CLIP)
    for _ in range(chance.randrange(1, 40)):
        end = len(content) if chance.random() < 0.5 else 1500
        content[chance.randrange(12, end)] = chance.randrange(256)
    return bytes(content)


HOSTILE = {
    "cut off": CLIP[: len(CLIP) // 2],
    "only a head": CLIP[:40],
    "noise": CLIP[:12] + random.Random(0).randbytes(20_000),
    "a picture of four billion pixels": gif(65535, 65535),
    "a box that is longer than the file": CLIP[:32] + b"\xff\xff\xff\xffmoov" + CLIP[40:],
    "boxes within boxes": CLIP[:32]
    + b"".join(struct.pack(">I4s", 8 * (4000 - depth), b"moov") for depth in range(4000)),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("data")) as server:
        yield server


def upload(server: Running, content: bytes) -> str:
    answer = server.http.post("/v1/files", files={"content": ("a.mp4", content)})
    assert answer.status_code == 201
    return str(answer.json()["id"])


def test_pictures_of_an_upload_are_made_elsewhere(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"/v1/files/{upload(server, CLIP)}/download"
    monkeypatch.setattr("mochi.serving.variants.MAKERS", {})  # this process has no way to do it
    for variant, start in (("thumbnail", b"\x89PNG"), ("gif", b"GIF8")):
        answer = server.http.get(place, params={"variant": variant})
        assert answer.status_code == 200, answer.text
        assert answer.content.startswith(start)
        assert "attachment" in answer.headers["content-disposition"]
    text = upload(server, b"no video at all")
    answer = server.http.get(f"/v1/files/{text}/download", params={"variant": "gif"})
    assert answer.status_code == 404


@pytest.mark.parametrize("name", ["cut off", "a picture of four billion pixels"])
def test_hostile_uploads(server: Running, name: str) -> None:
    try_hostile(server, HOSTILE[name])


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_more_hostile_uploads(server: Running, name: str) -> None:
    try_hostile(server, HOSTILE[name])


@pytest.mark.long
def test_changed_bytes(server: Running) -> None:
    for seed in range(30):
        try_hostile(server, mutated(seed), allowed=(200, 409))


def try_hostile(server: Running, content: bytes, allowed: tuple[int, ...] = (409,)) -> None:
    before = len(server.services.blobs.keys())
    file_id = upload(server, content)
    address = f"/v1/files/{file_id}/download"
    answer = server.http.get(address, params={"variant": "last_frame"})
    assert answer.status_code in allowed, answer.text
    if answer.status_code == 409:
        assert str(server.services.work) not in answer.text
        assert len(server.services.blobs.keys()) == before + 1
    assert server.http.get("/healthz").status_code == 200
    assert not list(server.services.work.glob("*.png"))


def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run these lines in place of the child's own work."""
    script = tmp_path / "child.py"
    script.write_text("from mochi.serving import decoding\ndecoding.limit_this_process()\n" + code)
    real = decoding.subprocess.run

    def run(command: list[str], **how: object) -> object:
        return real([sys.executable, str(script)], **how)

    monkeypatch.setattr(decoding.subprocess, "run", run)
    with pytest.raises(VideoError, match="takes too"):
        decode_apart("gif", tmp_path / "a.mp4", tmp_path / "a.gif")


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(8 * 2**30)",
        "import os; os.kill(os.getpid(), 11)",
        "open(__file__ + '.out', 'wb').write(bytes(2**20) * 600)",
    ],
)
def test_what_the_child_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    child(tmp_path, monkeypatch, code)


def test_a_child_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_WALL_SECONDS", 1)
    child(tmp_path, monkeypatch, "import time; time.sleep(60)")


def test_large_libraries_do_not_count(tmp_path: Path) -> None:
    """A build of torch for CUDA maps gigabytes of code before a frame is read."""
    library = tmp_path / "library.so"
    with library.open("wb") as file:
        file.truncate(decoding.MEMORY_BYTES + 2**30)  # takes no room on the disk
    lines = (
        "import mmap, sys",
        "from mochi.serving.decoding import limit_this_process",
        "limit_this_process()",
        "library = open(sys.argv[1], 'rb')",
        "mmap.mmap(library.fileno(), 0, access=mmap.ACCESS_READ)",
    )
    command = [sys.executable, "-c", "\n".join(lines), str(library)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
