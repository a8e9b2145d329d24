"""For everybody: without a mouse, on a phone, in the dark, with a screen reader."""

from __future__ import annotations

from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect
from tests.serving.page.conftest import CHROMIUM, PROMPT, Bench

pytestmark = pytest.mark.needs_system("chromium", **CHROMIUM)
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
PAGES = ["", "examples", "api", "readme", "versions"]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def violations(page: Page) -> list[str]:
    """What axe-core finds: WCAG 2.2 A and AA, and its best practices; in words."""
    if page.evaluate("!window.axe"):
        page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_axe_finds_nothing(bench: Bench, scheme: str) -> None:
    page = bench.ready(color_scheme=scheme)
    page.get_by_text("Advanced").click()
    assert violations(page) == []
    bench.run(page)
    assert violations(page) == []
    for name in PAGES[1:]:
        page.goto(f"{bench.url}/#/{name}")
        page.locator(f"#page-{name} h1").wait_for()
        assert violations(page) == [], name


@pytest.mark.long
def test_axe_finds_nothing_while_a_run_goes_on_fails_or_is_compared(bench: Bench) -> None:
    page = bench.ready()
    bench.world.hold_at = 6
    page.fill("#prompt", PROMPT)
    page.click("#run")
    expect(page.locator(".status-line")).to_contain_text("step 5 of 16")
    assert violations(page) == []
    bench.world.fail_with = "[runner_died] the runner ended with signal 9"
    bench.world.release.set()
    expect(page.locator(".veil")).to_contain_text("The worker stopped")
    assert violations(page) == []
    bench.world.fail_with = None
    bench.run(page)
    bench.run(page)
    first, second = list(bench.world.runs)[1:]
    page.goto(f"{bench.url}/#/compare/{first}/{second}")
    page.locator(".diff").wait_for()
    assert violations(page) == []


@pytest.mark.long
def test_axe_notices_what_is_wrong(page: Page) -> None:
    page.evaluate("document.querySelector('#prompt').labels[0].remove()")
    page.evaluate("document.querySelector('#caption').style.color = '#ddd'")
    page.evaluate("document.querySelector('#caption').textContent = 'pale'")
    found = violations(page)
    assert any(line.startswith("color-contrast") for line in found)
    page.evaluate("document.querySelector('#field-seed').removeAttribute('id')")
    assert any(line.startswith("label") for line in violations(page))


def test_everything_is_done_without_a_mouse(bench: Bench, page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the prompt")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type(PROMPT)
    page.keyboard.press("Control+Enter")
    page.locator(".facts").wait_for()
    for _ in range(4):  # One/Seeds/Prompts is one stop, then Run
        if page.evaluate("document.activeElement.id") == "run":
            break
        page.keyboard.press("Tab")
    expect(page.locator("#run")).to_be_focused()
    page.locator(".tab").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="JSON")).to_be_focused()
    expect(page.locator("#json")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Node")).to_be_focused()
    page.locator(".menu summary").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Video (MP4)")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Video (MP4)")).to_be_hidden()
    expect(page.locator(".menu summary")).to_be_focused()


def test_focus_goes_down_the_page_and_is_seen(bench: Bench, page: Page) -> None:
    bench.run(page)
    page.locator("#history .card").wait_for()
    page.locator(".skip").focus()
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => {
            const it = document.activeElement, box = it.getBoundingClientRect();
            const shown = it.type === "radio" ? it.nextElementSibling : it;
            const style = getComputedStyle(it.id === "prompt" ? it.form : shown);
            const seen = style.outlineStyle !== "none" || it.id === "prompt";
            const area = it.closest(".head, .stage-card, #composer, .settings, #logs, .history");
            const what = it.outerHTML.slice(0, 90), wide = box.width > 0;
            return {area: area?.className ?? "", seen, wide, what};
            }"""
        )
        if not stop["area"]:
            break
        stops.append(stop)
    assert [stop["what"] for stop in stops if not stop["seen"]] == []
    assert [stop["what"] for stop in stops if not stop["wide"]] == []
    areas = list(dict.fromkeys(stop["area"] for stop in stops))
    assert areas == ["head", "stage-card", "composer", "settings", "logs", "history"]


@pytest.mark.long
def test_state_is_said_to_screen_readers(bench: Bench, page: Page) -> None:
    bench.run(page)
    expect(page.locator("#announcer")).to_have_text("Your video is ready")
    expect(page.locator("#announcer")).to_have_role("status")
    expect(page.get_by_role("log")).to_contain_text("seed: 1000")


def test_a_phone_shows_all_of_it(bench: Bench) -> None:
    page = bench.ready(**PHONE)
    page.get_by_text("Advanced").click()
    bench.run(page)
    for name in PAGES:
        page.goto(f"{bench.url}/#/{name}")
        page.wait_for_timeout(50)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{name or 'playground'} is {wide} px too wide"
    page.goto(f"{bench.url}/#/")
    small = page.locator(".button:visible, .icon-button:visible, .tab:visible").evaluate_all(
        "all => all.filter(e => e.getBoundingClientRect().height < 24).map(e => e.outerHTML)"
    )
    assert small == []  # WCAG 2.2, 2.5.8
    box = page.locator("#run").bounding_box()
    assert box
    assert box["y"] + box["height"] <= 844  # Run is in reach, wherever the page is scrolled to


@pytest.mark.long
def test_the_theme_is_kept(bench: Bench, page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    theme = page.get_by_role("button", name="Theme: system")
    theme.click()
    page.get_by_role("button", name="Theme: light").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
