"""The page against `mochi serve` itself, with nano: no part of it is made up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from tests.serving.page.conftest import CHROMIUM, PROMPT

pytestmark = pytest.mark.needs_system("chromium", **CHROMIUM)
REPOSITORY = Path(__file__).resolve().parents[3]
# nano is loaded by the first run; other tests may have the processor meanwhile.
SLOW = 300_000


class Served:
    """`mochi serve`, started as a user starts it, over one data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        words = ["-m", "mochi", "serve", "--port", str(self.port), "--data", str(self.data)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
        self.process = subprocess.Popen(
            [sys.executable, *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + 300
        while True:
            with suppress(OSError), urllib.request.urlopen(self.url + "/healthz", timeout=1):
                return
            assert self.process.poll() is None, "the server did not start"
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.1)

    def kill(self) -> None:
        """As a power cut does: the server and its runner at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path / "data")
    yield server
    server.kill()


@pytest.fixture
def page(served: Served, usual: BrowserContext) -> Iterator[Page]:
    page = usual.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(served.url)
    page.locator(".field").first.wait_for()
    yield page
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith((served.url, "blob:"))] == []


def test_a_prompt_becomes_a_video_with_nano(page: Page, tmp_path: Path) -> None:
    page.fill("#prompt", PROMPT)
    page.fill("#field-num_frames", "13")
    page.fill("#field-num_inference_steps", "200")  # so that previews stay for a while
    page.keyboard.press("Control+Enter")
    preview = page.locator(".preview[data-count='3']")  # (13 - 1) / 6 + 1
    expect(preview).to_be_visible(timeout=SLOW)
    expect(page.locator(".facts")).to_contain_text("Frames13", timeout=SLOW)
    seed = page.locator("#field-seed").input_value()
    expect(page.locator("#log-lines")).to_contain_text(f"seed {seed}")
    video = page.locator(".screen video")
    assert video.evaluate("v => v.play().then(() => v.videoWidth)") == 64
    expect(page.locator("#estimate")).to_contain_text("about")  # measured by now

    page.locator(".menu summary").click()
    with page.expect_download() as taken:
        page.get_by_role("link", name="Video (MP4)").click()
    clip = tmp_path / taken.value.suggested_filename
    taken.value.save_as(clip)
    page.fill("#prompt", "something else")
    page.locator("#restore-file").set_input_files(clip)
    expect(page.locator("#prompt")).to_have_value(PROMPT)
    expect(page.locator("#field-num_frames")).to_have_value("13")
    expect(page.locator("#field-seed")).to_have_value(seed)


@pytest.mark.long
def test_a_power_cut_in_the_middle_loses_nothing(served: Served, page: Page) -> None:
    page.fill("#prompt", PROMPT)
    page.fill("#field-num_inference_steps", "200")
    page.fill("#field-num_frames", "85")  # long enough to be there twice, on any machine
    page.click("#run")
    line = page.locator(".status-line")
    expect(line).to_contain_text("Denoising, step", timeout=SLOW)
    served.kill()
    expect(line).to_contain_text("The server is away", timeout=SLOW)
    served.start()
    expect(line).to_contain_text("Denoising, step", timeout=SLOW)
    page.reload()
    expect(line).to_contain_text("Denoising, step", timeout=SLOW)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".veil")).to_contain_text("Cancelled", timeout=SLOW)
    expect(page.locator("#history .card")).to_have_count(1)


@pytest.mark.long
def test_history_survives_a_restart_and_all_that_can_be_done_works(
    served: Served, page: Page
) -> None:
    page.fill("#prompt", PROMPT)
    page.fill("#field-num_frames", "7")
    page.get_by_text("Seeds", exact=True).click()
    page.fill("#batch-count", "2")
    page.click("#run")
    cards = page.locator("#history .card")
    expect(cards).to_have_count(2, timeout=SLOW)
    expect(page.locator("#history .card video")).to_have_count(2, timeout=SLOW)
    served.kill()
    served.start()
    page.reload()
    expect(cards).to_have_count(2)
    page.get_by_role("button", name="Compare with another run").click()
    other = "#history .card:not(.is-picked) .card-face"
    page.locator(other).click()
    expect(page.locator(".diff .is-changed th")).to_have_text(["Seed"])
    page.get_by_role("button", name="Close the comparison").click()
    page.get_by_role("button", name="Copy a link to share").click()
    expect(page.locator("#toast")).to_have_text("Link copied")
    page.locator(".preset", has_text="Draft").click()
    expect(page.locator("#field-num_inference_steps")).to_have_value("")
    page.get_by_role("tab", name="JSON").click()
    assert '"preset": "draft"' in page.locator("#json").input_value()
    page.locator("#actions").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Press again to delete").click()
    expect(cards).to_have_count(1)
    page.goto(served.url + "/#/versions")
    expect(page.locator("#page-versions tbody tr")).to_have_count(1)
