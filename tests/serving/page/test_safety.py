"""A prompt is text, whatever it says; the page talks to its own host and runs its own scripts."""

import re

import pytest
from playwright.sync_api import expect
from tests.serving.page.conftest import CHROMIUM, Bench
from tests.serving.page.fake_answers import PAGE

HOSTILE = (
    "<img src=x onerror=window.bad=1><script>window.bad=1</script>"
    "'\"><svg onload=window.bad=1> javascript:window.bad=1 {{7*7}} ${window.bad=1}"
)
FILES = sorted(path for path in PAGE.rglob("*") if path.suffix in (".html", ".js", ".css", ".svg"))


@pytest.mark.needs_system("chromium", **CHROMIUM)
def test_a_hostile_prompt_is_text_everywhere(bench: Bench) -> None:
    bench.world.fail_with = f"[internal] {HOSTILE}"
    page = bench.ready()
    page.fill("#prompt", HOSTILE)
    page.click("#run")
    expect(page.locator(".said")).to_have_text(HOSTILE)
    bench.world.fail_with = None
    bench.run(page, HOSTILE)
    expect(page.locator("#caption")).to_have_text(HOSTILE)
    expect(page.locator("#history .card-prompt").first).to_have_text(HOSTILE)
    for name in ("JSON", "curl", "Python", "Node"):
        page.get_by_role("tab", name=name).click()
    page.goto(f"{bench.url}/#/api")
    page.goto(f"{bench.url}/#/compare/{'/'.join(list(bench.world.runs)[1:] * 2)}")
    expect(page.locator(".diff td").first).to_have_text(HOSTILE)
    page.goto(f"{bench.url}/#/readme")
    expect(page.locator(".prose p").first).to_contain_text("<script>alert(1)</script>")
    assert page.evaluate("window.bad") is None
    assert page.locator("main img[src=x], main script").count() == 0


@pytest.mark.needs_system("chromium", **CHROMIUM)
def test_a_script_from_elsewhere_would_not_run(bench: Bench) -> None:
    page = bench.ready()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'),"
        " {textContent: 'window.bad = 1'}))"
    )
    assert page.evaluate("window.bad") is None
    bench.hears(page, "Content Security Policy")
    bench.complaints.clear()


def test_nothing_in_the_page_needs_another_host() -> None:
    address = re.compile(r"https?://(?!www\.w3\.org/2000/svg|127\.0\.0\.1)[\w.-]+")
    assert [(path.name, address.findall(path.read_text())) for path in FILES
            if address.search(path.read_text())] == []  # fmt: skip


def test_the_page_holds_to_a_strict_policy() -> None:
    html = (PAGE / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", html) == []
    scripts = "".join(path.read_text() for path in FILES if path.suffix == ".js")
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert re.findall(unsafe, scripts) == []


def test_files_of_the_page_are_short() -> None:
    assert [path.name for path in FILES if len(path.read_text().splitlines()) > 400] == []
