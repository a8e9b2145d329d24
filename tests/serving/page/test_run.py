"""A prompt becomes a video, in a browser."""

import re

import pytest
from playwright.sync_api import Page, expect
from tests.serving.page.conftest import CHROMIUM, PROMPT, Bench

pytestmark = pytest.mark.needs_system("chromium", **CHROMIUM)


def test_a_prompt_becomes_a_video_that_plays(bench: Bench, page: Page) -> None:
    bench.run(page)
    video = page.locator(".screen video")
    bench.plays(page)
    assert video.evaluate("v => v.videoWidth") == 64
    expect(page.locator(".facts")).to_contain_text("Seed1000")
    expect(page.locator(".facts")).to_contain_text("Cost$0.0004")
    expect(page.locator("#log-lines")).to_contain_text("seed: 1000")
    assert bench.world.seen[0]["prompt"] == PROMPT
    assert "seed" not in bench.world.seen[0]  # an unlocked seed is the server's to draw
    expect(page.locator("#history .card")).to_have_count(1)


def test_the_state_and_its_cause_are_said(bench: Bench, page: Page) -> None:
    bench.world.ahead, bench.world.hold_at = 3, 9
    bench.world.turn.clear()
    page.fill("#prompt", PROMPT)
    page.keyboard.press("Control+Enter")
    line = page.locator(".status-line")
    expect(line).to_contain_text(re.compile("Waiting, position 4 of 4.*left"))
    bench.world.turn.set()
    expect(line).to_contain_text("Denoising, step 8 of 16")
    expect(line).to_contain_text("0.02 s/step")
    expect(page.locator(".phase.is-now")).to_have_text("Denoising 8/16")
    expect(page.locator(".phase.is-done")).to_have_text("Reading the prompt")
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "45")


@pytest.mark.long
def test_a_model_that_cannot_start_is_named_as_the_cause(bench: Bench, page: Page) -> None:
    bench.world.runner_state, bench.world.runner_reason = "failed", "weights are missing"
    bench.world.ahead = 50
    bench.world.turn.clear()
    page.reload()
    page.fill("#prompt", PROMPT)
    page.click("#run")
    expect(page.locator(".status-line")).to_contain_text(
        "Waiting: the model cannot start (weights are missing)"
    )
    expect(page.locator("#server")).to_contain_text("Cannot start: weights are missing")


@pytest.mark.long
def test_why_jobs_wait_is_said(bench: Bench, page: Page) -> None:
    bench.world.trouble = "the data folder refuses: No space left on device"
    bench.world.ahead = 50
    bench.world.turn.clear()
    page.reload()
    page.fill("#prompt", PROMPT)
    page.click("#run")
    expect(page.locator(".status-line")).to_contain_text(f"Waiting: {bench.world.trouble}")
    expect(page.locator("#server")).to_contain_text("No space left")
    expect(page.locator("#server")).to_have_attribute("data-state", "stuck")


def test_cancel_stops_a_run(bench: Bench, page: Page) -> None:
    bench.world.hold_at = 5
    page.fill("#prompt", PROMPT)
    page.click("#run")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".veil")).to_contain_text("Cancelled")
    expect(page.locator("#history .card-meta")).to_have_text("Cancelled")
    assert next(iter(bench.world.runs.values())).status == "canceled"


def test_the_preview_is_live_and_can_be_off(bench: Bench, page: Page) -> None:
    bench.world.hold_at = 5
    page.fill("#prompt", PROMPT)
    page.click("#run")
    preview = page.locator(".preview")
    expect(preview).to_be_visible()
    expect(preview).to_have_attribute("data-count", "5")  # five frames were in the strip
    middle = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    assert max(preview.evaluate(middle)[::4]) > 40  # something red is there
    bench.world.release.set()
    page.locator(".facts").wait_for()

    bench.world.release.clear()
    page.get_by_role("switch", name="Live preview").uncheck()
    page.click("#run")
    expect(page.locator(".status-line")).to_contain_text("step 4 of 16")
    expect(preview).to_be_hidden()
    assert any("previews=0" in url for url in bench.requests)


def test_a_failure_is_told_in_words_with_a_retry_that_is_smaller(bench: Bench, page: Page) -> None:
    bench.world.fail_with = "[does_not_fit] 25 frames need 61.2 GiB, 21.0 GiB are free"
    page.fill("#prompt", PROMPT)
    page.click("#run")
    veil = page.locator(".veil")
    expect(veil).to_contain_text("It does not fit")
    expect(veil).to_contain_text("25 frames need 61.2 GiB, 21.0 GiB are free")
    bench.world.fail_with = None
    page.get_by_role("button", name="Try with smaller settings").click()
    page.locator(".facts").wait_for()
    before, after = bench.world.seen
    assert after["num_frames"] == 7
    assert after["num_frames"] % 6 == 1
    assert after["num_inference_steps"] < before["num_inference_steps"]
    assert after["width"] % 16 == 0


def test_a_batch_of_seeds(bench: Bench, page: Page) -> None:
    page.fill("#prompt", PROMPT)
    page.get_by_text("Seeds", exact=True).click()
    page.fill("#batch-count", "3")
    expect(page.locator("#run")).to_contain_text("Run 3")
    expect(page.locator("#estimate")).to_contain_text("for 3, one after the other")
    expect(page.locator("#estimate")).to_contain_text("about 4.8 s · 200 MiB · $0.0019")
    page.click("#run")
    expect(page.locator("#history .card")).to_have_count(3)
    seeds = [values["seed"] for values in bench.world.seen]
    assert seeds == list(range(seeds[0], seeds[0] + 3))


@pytest.mark.long
def test_a_batch_of_prompts(bench: Bench, page: Page) -> None:
    page.get_by_text("Prompts", exact=True).click()
    page.fill("#batch-prompts", "a red circle\n\n  a blue square  \n")
    page.click("#run")
    expect(page.locator("#history .card")).to_have_count(2)
    assert [values["prompt"] for values in bench.world.seen] == ["a red circle", "a blue square"]


def test_what_a_run_takes_is_said_before_it(bench: Bench, page: Page) -> None:
    expect(page.locator("#estimate")).to_contain_text("about 1.6 s · 200 MiB · $0.00064")
    page.fill("#field-num_frames", "163")
    expect(page.locator("#estimate")).to_contain_text("More memory than is free")
    draft = page.locator(".preset", has_text="Draft")
    expect(draft).to_contain_text("1.1 s · 200 MiB")
    expect(draft).to_contain_text("$0.000306")
    draft.click()
    expect(page.locator("#field-num_inference_steps")).to_have_value("8")


def test_a_prompt_is_counted_and_a_long_one_warned_of(page: Page) -> None:
    page.fill("#prompt", "a red circle")
    expect(page.locator("#tokens")).to_have_text("4 / 256 tokens")
    page.fill("#prompt", "word " * 300)
    expect(page.locator("#tokens")).to_have_text("301 tokens: only the first 256 are read")


@pytest.mark.long
def test_a_full_queue_is_told_kindly(bench: Bench, page: Page) -> None:
    bench.world.refuse = {"title": "Too many", "detail": "100 wait", "status": 429}
    page.fill("#prompt", PROMPT)
    page.click("#run")
    expect(page.locator("#run-error")).to_contain_text("enough to do for now")
    bench.complaints.clear()  # the browser itself notes each answer of 4xx


def test_the_player_steps_scrubs_and_loops(bench: Bench, page: Page) -> None:
    bench.run(page)
    page.locator(".screen").focus()
    page.keyboard.press("k")
    bench.until(page, "!document.querySelector('.screen video').paused")
    page.keyboard.press("k")
    page.keyboard.press("Home")
    readout = page.locator(".readout")
    expect(readout).to_have_text("1 / 25")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(readout).to_have_text("3 / 25")
    page.get_by_role("button", name="One frame back").click()
    expect(readout).to_have_text("2 / 25")
    page.get_by_label("Frame", exact=True).fill("20")
    expect(readout).to_have_text("21 / 25")
    loop = page.get_by_role("button", name="Loop")
    expect(loop).to_have_attribute("aria-pressed", "true")
    loop.click()
    assert page.locator(".screen video").evaluate("v => v.loop") is False
