"""One Chromium for all tests; for each test a world, a server, and a page that must stay clean."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from tests.serving.page.fake_server import Server, World

CHROMIUM = {"install": "apt-get install chromium"}
PROMPT = "a red circle moves left on a black background"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "tests that use the browser are marked needs_system('chromium')"
    expect.set_options(timeout=60_000)  # a crowded machine is not a failure
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


# Without motion nothing plays by itself, which is half of the work of a test.
USUAL = {"viewport": {"width": 1100, "height": 800}, "reduced_motion": "reduce"}


@pytest.fixture(scope="session")
def usual(browser: Browser) -> BrowserContext:
    """The context of most tests: scripts that it has read once are compiled."""
    made = browser.new_context(**USUAL)
    made.set_default_timeout(60_000)
    return made


@pytest.fixture(scope="session")
def lasting() -> Iterator[Server]:
    """The server of all tests, over another world for each."""
    server = Server(World())
    yield server
    server.stop()


@dataclass
class Bench:
    """A world, its server, and pages that note all they ask for and all they complain of."""

    browser: Browser
    usual: BrowserContext
    world: World
    server: Server
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    def context(self, **how: object) -> BrowserContext:
        made = self.browser.new_context(**{**USUAL, **how})
        made.set_default_timeout(60_000)
        self.contexts.append(made)
        return made

    def open(self, path: str = "/", context: BrowserContext | None = None, **how: object) -> Page:
        """A page at this path, ready: its form is there."""
        if context is None:
            context = self.context(**how) if how else self.usual
        page = context.new_page()
        self.pages.append(page)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.url + path)
        return page

    def ready(self, path: str = "/", **how: object) -> Page:
        page = self.open(path, **how)
        page.locator("#server[data-state=idle]").wait_for()
        page.locator(".field").first.wait_for(state="attached")
        return page

    def run(self, page: Page, prompt: str = PROMPT) -> None:
        """Ask for a video, and wait until it is shown."""
        page.fill("#prompt", prompt)
        self.world.turn.clear()  # not before the page was seen to wait for it
        page.click("#run")
        page.locator(".stage[data-mode=making]").wait_for()
        self.world.turn.set()
        page.locator(".stage[data-mode=video] .facts").wait_for()

    def until(self, page: Page, line: str) -> None:
        """Wait until a line of JavaScript is true; playwright's own way is an eval (no: CSP)."""
        end = time.monotonic() + 60
        while not page.evaluate(line):
            assert time.monotonic() < end, f"never came true: {line}"
            page.wait_for_timeout(30)

    def hears(self, page: Page, words: str) -> None:
        """Wait until the page complains of this."""
        end = time.monotonic() + 60
        while not any(words in line for line in self.complaints):
            assert time.monotonic() < end, f"never heard: {words}"
            page.wait_for_timeout(30)

    def plays(self, page: Page, which: str = ".screen video") -> None:
        """Start a video, unless it moves by itself, and wait until it moves."""
        page.evaluate(f"document.querySelector('{which}').play().then(() => 0)")
        self.until(page, f"document.querySelector('{which}').currentTime > 0.1")

    def forget(self) -> None:
        """What the browser remembers of earlier tests."""
        page = self.usual.new_page()
        page.goto(self.url + "/static/icon.svg")
        page.evaluate("localStorage.clear()")
        page.close()

    def mortal(self) -> None:
        """A server of this test's own, to stop and start."""
        self.server = Server(self.world)

    def restart(self) -> None:
        self.server = Server(self.world, self.server.port)

    def _note(self, message: object) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture
def bench(browser: Browser, usual: BrowserContext, lasting: Server) -> Iterator[Bench]:
    world = lasting.world = World()
    made = Bench(browser, usual, world, lasting)
    made.forget()
    yield made
    for page in made.pages:
        page.close()
    for context in made.contexts:
        context.close()
    world.release.set()
    world.turn.set()
    if made.server is not lasting:
        made.server.stop()
    outside = [url for url in made.requests if not url.startswith((made.url + "/", "blob:"))]
    assert outside == [], "the page asks for something from another host"
    assert made.complaints == [], "the page complains in the console"


@pytest.fixture
def page(bench: Bench) -> Page:
    return bench.ready()


@pytest.fixture
def module(bench: Bench) -> Callable[..., object]:
    """An expression's value, with a module of the page as `m`, the argument as `x`; no page."""
    blank = bench.usual.new_page()
    bench.pages.append(blank)
    blank.goto(bench.url + "/static/icon.svg")

    def call(name: str, expression: str, argument: object = None) -> object:
        load = f'const m = await import("/static/js/{name}.js");'
        return blank.evaluate(f"async (x) => {{ {load} return ({expression}); }}", argument)

    return call
