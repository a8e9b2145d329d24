"""One input, five views; rules beside the fields; settings out of a file."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.serving.page.conftest import CHROMIUM, PROMPT, Bench
from tests.serving.page.fake_answers import CLIPS

pytestmark = pytest.mark.needs_system("chromium", **CHROMIUM)


def test_the_form_is_made_from_the_schema(page: Page) -> None:
    labels = page.locator("#input-panel .label").all_text_contents()
    everyday = ["Frames", "Steps", "Guidance", "Frames per second", "Width", "Height", "Seed"]
    folded = ["Negative prompt", "Solver", "Threshold", "Step cache", "LoRAs"]
    assert labels == [*everyday, *folded]
    expect(page.locator(".advanced")).not_to_have_attribute("open", "")
    page.get_by_text("Advanced").click()
    expect(page.get_by_role("radio", name="euler")).to_be_checked()
    slider = page.locator(".field[data-field=num_frames] input[type=range]")
    assert slider.get_attribute("step") == "6"


def test_adapters_are_picked_each_with_its_scale(page: Page) -> None:
    page.get_by_text("Advanced").click()
    loras = page.get_by_role("group", name="LoRAs")
    scale = loras.get_by_role("spinbutton", name="Scale of watercolour")
    expect(scale).to_be_hidden()
    loras.get_by_text("watercolour").click()
    expect(scale).to_have_value("0.8")
    page.get_by_role("tab", name="JSON").click()
    shown = page.locator("#json")
    assert json.loads(shown.input_value())["loras"] == ["watercolour"]
    shown.fill('{"prompt": "x", "loras": ["night:0.25"], "step_cache": "tea:0.05"}')
    page.get_by_role("tab", name="Form").click()
    expect(scale).to_be_hidden()
    expect(loras.get_by_role("spinbutton", name="Scale of night")).to_have_value("0.25")
    loras.get_by_role("spinbutton", name="Scale of night").fill("0.5")
    page.get_by_role("tab", name="JSON").click()
    assert json.loads(shown.input_value())["loras"] == ["night:0.5"]
    assert json.loads(shown.input_value())["step_cache"] == "tea:0.05"
    expect(page.locator("#json-error")).to_have_text("")
    page.get_by_role("tab", name="Form").click()
    loras.get_by_text("night").click()
    page.get_by_role("tab", name="JSON").click()
    assert "loras" not in json.loads(shown.input_value())


def test_five_views_are_one_input(bench: Bench, page: Page) -> None:
    page.fill("#prompt", 'a "red" circle, it\'s\nround')
    page.fill("#field-guidance_scale", "3.5")
    page.get_by_role("tab", name="JSON").click()
    shown = json.loads(page.locator("#json").input_value())
    assert shown["prompt"] == 'a "red" circle, it\'s\nround'
    assert shown["guidance_scale"] == 3.5
    assert "negative_prompt" not in shown

    page.locator("#json").fill(json.dumps({**shown, "prompt": "from JSON", "steps": 4}))
    expect(page.locator("#prompt")).to_have_value("from JSON")
    page.locator("#json").fill('{"prompt": 3,')
    expect(page.locator("#json-error")).to_contain_text("Not JSON yet")
    page.locator("#json").fill('{"prompt": "x", "colour": 1, "fps": 500}')
    expect(page.locator("#json-error")).to_contain_text("No such field: colour")
    expect(page.locator("#json-error")).to_contain_text("Must be at most 60")

    for name, words in [
        ("curl", f"curl -s -X POST {bench.url}/v1/predictions"),
        ("Python", f'base_url="{bench.url}"'),
        ("Node", f'baseUrl: "{bench.url}/v1"'),
    ]:
        page.get_by_role("tab", name=name).click()
        expect(page.locator("#code-panel .code")).to_contain_text(words)


@pytest.mark.long
def test_the_copied_curl_runs_as_it_stands(bench: Bench, page: Page) -> None:
    import subprocess

    page.fill("#prompt", 'it\'s a "red" circle; $HOME `id`\n\\ and é')
    page.get_by_role("tab", name="curl").click()
    command = page.locator("#code-panel .code").text_content() or ""
    bench.world.turn.clear()
    answer = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(answer.stdout)["status"] in ("starting", "processing")
    assert bench.world.seen[0]["prompt"] == 'it\'s a "red" circle; $HOME `id`\n\\ and é'


@pytest.mark.long
def test_the_python_view_is_python(page: Page) -> None:
    prompt = 'a "red" circle \\ é \u2028 \U0001f600'
    page.fill("#prompt", prompt)
    page.get_by_role("tab", name="Python").click()
    code = page.locator("#code-panel .code").text_content() or ""
    given: dict[str, Any] = {}

    class Client:
        def __init__(self, **_: str) -> None: ...

        def run(self, model: str, input: dict[str, Any]) -> str:
            given.update(input, model=model)
            return ""

    exec(code.replace("import replicate", ""), {"replicate": type("R", (), {"Client": Client})})
    assert given["prompt"] == prompt
    assert given["model"] == "genmoai/mochi-1"


def test_the_seed_is_locked_and_rolled(bench: Bench, page: Page) -> None:
    seed = page.locator("#field-seed")
    page.get_by_role("button", name="Roll a new seed").click()
    first = seed.input_value()
    page.get_by_role("button", name="Roll a new seed").click()
    assert seed.input_value() != first
    lock = page.get_by_role("button", name="Lock the seed")
    expect(lock).to_have_attribute("aria-pressed", "true")
    bench.run(page)
    assert str(bench.world.seen[0]["seed"]) == seed.input_value()
    lock.click()
    bench.run(page)
    assert "seed" not in bench.world.seen[1]
    expect(seed).to_have_value("1001")  # the one that was drawn is shown


def test_rules_are_told_beside_the_field(bench: Bench, page: Page) -> None:
    page.fill("#field-width", "70")
    expect(page.locator("#field-width-error")).to_contain_text("nearest are 64 and 80")
    expect(page.locator("#field-width")).to_have_attribute("aria-invalid", "true")
    page.fill("#field-num_frames", "27")
    expect(page.locator("#field-num_frames-note")).to_contain_text("25 frames will be made")
    page.click("#run")
    expect(page.locator("#prompt-error")).to_have_text("This is needed.")
    expect(page.locator("#prompt")).to_be_focused()
    assert bench.world.seen == []


def test_the_servers_words_reach_the_field_they_are_about(bench: Bench, page: Page) -> None:
    page.fill("#prompt", PROMPT)
    bench.world.refuse = {
        "title": "Input validation failed",
        "detail": "threshold=0.5 is too large",
        "status": 422,
        "invalid_fields": [
            {
                "type": "value",
                "field": "input.threshold",
                "description": "is too large",
                "nearest": "0.2",
            },
            {"type": "value", "field": "webhook", "description": "is not allowed"},
        ],
    }
    page.click("#run")
    expect(page.locator("#field-threshold-error")).to_have_text("Is too large. Nearest: 0.2.")
    expect(page.locator("#field-threshold")).to_be_focused()  # unfolded, and there
    expect(page.locator("#run-error")).to_have_text("webhook: Is not allowed.")
    page.fill("#field-threshold", "0.2")
    expect(page.locator("#field-threshold-error")).to_be_empty()
    bench.complaints.clear()  # the browser itself notes each answer of 4xx


@pytest.mark.long
def test_the_arrow_keys_step_over_legal_values(page: Page) -> None:
    page.focus("#field-num_frames")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#field-num_frames")).to_have_value("31")
    page.focus("#field-width")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#field-width")).to_have_value("80")


def drop(page: Page, path: Path) -> None:
    """Drop a file on the page, as from a desktop."""
    data = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(
        """([data, name]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name));
        const how = {dataTransfer: transfer, bubbles: true, cancelable: true};
        for (const type of ["dragenter", "dragover", "drop"])
          document.body.dispatchEvent(new DragEvent(type, how));
        }""",
        [data, path.name],
    )


def test_a_dropped_video_restores_its_settings(page: Page, tmp_path: Path) -> None:
    clip = next(path for path in CLIPS if path.stem == "golden-pyramid")
    drop(page, clip)
    expect(page.locator("#prompt")).to_have_value(
        "please draw a tiny golden pyramid rising on gray"
    )
    expect(page.locator("#field-seed")).to_have_value("6")
    expect(page.locator("#field-num_inference_steps")).to_have_value("16")
    expect(page.locator("#toast")).to_contain_text("Settings restored from golden-pyramid.mp4")
    expect(page.locator("#drop")).to_be_hidden()
    other = tmp_path / "holiday.mp4"
    other.write_bytes(b"\x00\x00\x00\x18ftypisom" + b"\xff" * 500)
    drop(page, other)
    expect(page.locator("#toast")).to_contain_text("holiday.mp4 holds no settings")


@pytest.mark.long
def test_a_chosen_file_does_the_same_without_a_mouse(page: Page) -> None:
    clip = next(path for path in CLIPS if path.stem == "red-circle")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Restore from a video").press("Enter")
    chooser.value.set_files(clip)
    expect(page.locator("#prompt")).to_have_value(PROMPT)


def test_a_token_is_asked_for_and_kept(bench: Bench) -> None:
    bench.world.token = "secret"
    page = bench.open()
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#token-error")).to_have_text("That token was not accepted.")
    page.fill("#token", "secret")
    page.keyboard.press("Enter")
    expect(page.locator("#token-dialog")).to_be_hidden()
    bench.run(page)
    page.reload()
    expect(page.locator(".facts")).to_be_visible()
    page.get_by_role("tab", name="curl").click()
    expect(page.locator("#code-panel .code")).to_contain_text("Bearer $REPLICATE_API_TOKEN")
    assert not any("secret" in url for url in bench.requests)
    bench.complaints.clear()  # the browser itself notes each answer of 4xx


@pytest.mark.long
def test_whoever_gives_no_token_is_asked_once(bench: Bench) -> None:
    bench.world.token = "secret"
    page = bench.open()
    page.get_by_role("button", name="Not now").click()
    expect(page.locator("#caption")).to_have_text(PROMPT)  # an example plays meanwhile
    again = page.get_by_role("button", name="Enter a token")
    again.click()
    page.fill("#token", "secret")
    page.get_by_role("button", name="Go on").click()
    bench.run(page)
    bench.complaints.clear()  # the browser itself notes each answer of 4xx


def test_the_other_tabs_say_what_the_server_says(bench: Bench, page: Page) -> None:
    page.get_by_role("link", name="Versions").click()
    expect(page.locator(".version")).to_contain_text("5c5c5c5c5c5c")
    expect(page.locator("#page-versions tbody")).to_contain_text(
        re.compile("12.*1.6 s.*1.4 s to 2.2 s")
    )
    page.get_by_role("link", name="Readme").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Mochi 1")
    expect(page.locator("#page-readme td").first).to_have_text("25")
    page.get_by_role("link", name="API").click()
    expect(page.locator("#page-api")).to_contain_text(f"{bench.url}/v1/predictions/ID/events")
    expect(page.locator("#page-api tbody tr")).to_have_count(13)
