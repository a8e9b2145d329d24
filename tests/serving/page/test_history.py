"""What was made stays: over a reload, a restart, a second browser; and what can be done with it."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.serving.page.conftest import CHROMIUM, PROMPT, Bench

pytestmark = pytest.mark.needs_system("chromium", **CHROMIUM)


def start(bench: Bench, page: Page, hold_at: int) -> None:
    """A run that waits at a step until it is released."""
    bench.world.hold_at = hold_at
    page.fill("#prompt", PROMPT)
    page.click("#run")
    expect(page.locator(".status-line")).to_contain_text(f"step {hold_at - 1} of 16")


def test_a_reload_in_the_middle_goes_on_where_it_was(bench: Bench, page: Page) -> None:
    start(bench, page, hold_at=8)
    page.reload()
    expect(page.locator(".status-line")).to_contain_text("step 7 of 16")
    expect(page.locator("#prompt")).to_have_value(PROMPT)  # the draft is there too
    bench.world.release.set()
    expect(page.locator(".facts")).to_contain_text("Seed1000")
    assert len(bench.world.runs) == 1


def test_a_restart_of_the_server_in_the_middle_goes_on(bench: Bench) -> None:
    bench.mortal()
    page = bench.ready()
    start(bench, page, hold_at=8)
    bench.server.stop()
    expect(page.locator(".status-line")).to_contain_text("The server is away")
    run = next(iter(bench.world.runs.values()))
    bench.world.say(run, "retry", attempt=2, reason="the server stopped")
    bench.restart()
    expect(page.locator(".status-line")).to_contain_text("Starting again: the server stopped")
    bench.world.release.set()
    page.locator(".facts").wait_for()
    assert len(bench.world.runs) == 1
    bench.complaints.clear()  # the browser notes each connection that was refused


@pytest.mark.long
def test_past_runs_come_a_page_at_a_time(bench: Bench) -> None:
    bench.world.step_seconds = 0
    for number in range(30):
        bench.world.create({"prompt": f"clip {number}"})
    page = bench.ready()
    cards = page.locator("#history .card")
    expect(cards).to_have_count(24)
    page.get_by_role("button", name="Show older runs").click()
    expect(cards).to_have_count(30)
    expect(cards.first).to_contain_text("clip 29")


def test_two_runs_are_compared_in_step(bench: Bench, page: Page) -> None:
    bench.run(page, "a red circle")
    bench.run(page, "a blue square")
    page.get_by_role("button", name="Compare with another run").click()
    expect(page.locator(".hint")).to_contain_text("choose the run to compare")
    page.locator("#history .card-face").nth(1).click()
    expect(page.locator(".diff caption")).to_have_text(re.compile("^2 of . settings differ"))
    changed = page.locator(".diff .is-changed th")
    expect(changed).to_have_text(["Prompt", "Seed"])
    bench.plays(page, ".pair video")
    page.get_by_role("button", name="Pause").last.click()
    page.get_by_label("Frame", exact=True).last.fill("12")
    bench.until(
        page, "[...document.querySelectorAll('.pair video')].every(v => v.paused && !v.seeking)"
    )
    times = page.locator(".pair video").evaluate_all("all => all.map(v => v.currentTime)")
    assert times[0] == times[1] == pytest.approx(12.5 / 12)
    page.get_by_role("button", name="Close the comparison").click()
    expect(page.locator(".stage[data-mode=video]")).to_be_visible()


def test_a_past_run_is_tweaked(bench: Bench, page: Page) -> None:
    bench.run(page)
    page.fill("#prompt", "something else")
    page.fill("#field-num_inference_steps", "99")
    page.locator("#actions").get_by_role("button", name="Tweak it").click()
    expect(page.locator("#prompt")).to_have_value(PROMPT)
    expect(page.locator("#prompt")).to_be_focused()
    expect(page.locator("#field-num_inference_steps")).to_have_value("16")
    expect(page.locator("#field-seed")).to_have_value("1000")
    page.click("#run")
    page.locator("#history .card").nth(1).wait_for()
    assert bench.world.seen[1]["seed"] == 1000  # locked: the same seed again


def test_examples_work_without_a_model_and_can_be_tweaked(bench: Bench, page: Page) -> None:
    page.get_by_role("link", name="Examples").click()
    cards = page.locator("#page-examples .card")
    expect(cards).to_have_count(8)
    cards.nth(2).locator(".card-face").click()
    bench.plays(page)
    expect(page.locator("#caption")).to_have_text("a yellow triangle moves up on a teal background")
    page.locator("#actions").get_by_role("button", name="Tweak it").click()
    expect(page.locator("#field-num_inference_steps")).to_have_value("16")
    expect(page.locator("#field-guidance_scale")).to_have_value("2")
    expect(page.locator("#field-seed")).to_have_value("1")
    assert bench.world.runs == {}


def test_a_shared_link_shows_the_video_and_nothing_more(bench: Bench, page: Page) -> None:
    bench.run(page)
    page.get_by_role("button", name="Copy a link to share").click()
    expect(page.locator("#toast")).to_have_text("Link copied")
    bench.world.token = "secret"  # now strangers need one, but not for this
    (run,) = bench.world.runs.values()
    guest = bench.open(f"/p/{run.id}")
    expect(guest.locator(".facts")).to_contain_text("Seed1000")
    bench.plays(guest)
    expect(guest.locator("#composer")).to_be_hidden()
    expect(guest.get_by_role("button", name="Delete")).to_have_count(0)
    expect(guest.locator("#token-dialog")).to_be_hidden()
    bench.world.token = None
    page.get_by_role("button", name="Stop sharing").click()
    expect(page.locator("#toast")).to_have_text("The link no longer works")
    expect(page.get_by_role("button", name="Stop sharing")).to_have_count(0)
    assert not run.is_shared


@pytest.mark.long
def test_a_link_that_was_not_shared_shows_nothing_to_a_stranger(bench: Bench, page: Page) -> None:
    bench.run(page)
    bench.world.token = "secret"
    (run,) = bench.world.runs.values()
    guest = bench.open(f"/p/{run.id}")
    expect(guest.locator("#token-dialog")).to_be_visible()
    expect(guest.locator(".facts")).to_have_count(0)
    bench.complaints.clear()  # the browser itself notes each answer of 4xx


def test_delete_asks_once_and_deletes(bench: Bench, page: Page) -> None:
    bench.run(page)
    page.locator("#actions").get_by_role("button", name="Delete").click()
    assert len(bench.world.runs) == 1
    page.get_by_role("button", name="Press again to delete").click()
    expect(page.locator(".veil")).to_contain_text("Every copy of this run is gone")
    expect(page.locator("#history .card")).to_have_count(0)
    assert bench.world.runs == {}


@pytest.mark.long
def test_downloads_are_files_with_good_names(bench: Bench, page: Page, tmp_path: Path) -> None:
    bench.run(page)
    for label, ending, start in [
        ("Video (MP4)", "1000.mp4", b"ftyp"),
        ("Animation (GIF)", "1000.gif", b"GIF8"),
        ("Last frame (PNG)", "1000-last.png", b"PNG"),
    ]:
        page.locator(".menu summary").click()
        with page.expect_download() as taken:
            page.get_by_role("link", name=label).click()
        name = taken.value.suggested_filename
        assert name == f"a-red-circle-moves-left-on-a-black-{ending}"
        taken.value.save_as(tmp_path / name)
        assert start in (tmp_path / name).read_bytes()[:12]


@pytest.mark.long
def test_the_last_frame_of_an_example_is_drawn_by_the_page(bench: Bench, page: Page) -> None:
    page.locator("#caption").wait_for()
    page.locator(".menu summary").click()
    with page.expect_download() as taken:
        page.get_by_role("button", name="Last frame (PNG)").click()
    assert Path(taken.value.path()).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_word_comes_when_a_run_is_done_and_nobody_looks(bench: Bench) -> None:
    context = bench.context(permissions=["notifications"])
    context.add_init_script(
        "window.notes = []; window.Notification = class { constructor(title, more) {"
        " notes.push([title, more.body]); } static permission = 'granted'; };"
        "Object.defineProperty(document, 'hidden', {get: () => window.away ?? false});"
    )
    page = bench.ready(context=context)
    page.get_by_role("button", name="Notify me").click()
    start(bench, page, hold_at=8)
    page.evaluate("window.away = true")
    bench.world.release.set()
    bench.until(page, "notes.length === 1")
    assert page.evaluate("notes") == [["Your video is ready", PROMPT]]
    assert page.title() == "● Your video is ready"
