"""Pictures of the playground for the documents, from a running server.

mochi serve --port 8000 &
python bench/page_pictures.py http://127.0.0.1:8000 docs/images
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

PROMPTS = (
    "a purple circle shrinks on a gray background",
    "a blue square grows on a white background",
    "an orange square moves right on a black background",
    "a green circle moves down on a white background",
    "a red triangle moves left on a teal background",
    "a yellow triangle moves up on a teal background",
)
PATIENCE = 120_000
DESK = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


def main() -> None:
    """Take them all."""
    url, folder = sys.argv[1], Path(sys.argv[2])
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=DESK, color_scheme="light")
        page.goto(url)
        page.locator(".field").first.wait_for()
        for prompt in PROMPTS:
            run(page, prompt)
        take(page, folder / "playground-light.png")
        runs = page.locator("#history .card").evaluate_all("all => all.map(e => e.dataset.id)")
        going(browser, url, folder)
        page = browser.new_page(viewport=DESK, color_scheme="dark")
        page.goto(f"{url}/#/compare/{runs[0]}/{runs[1]}")
        take(page, folder / "playground-compare.png")
        page.goto(f"{url}/#/examples")
        take(page, folder / "playground-examples.png")
        phone(browser, url, folder, runs[0])
        browser.close()


def run(page: Page, prompt: str) -> None:
    """Make a video and wait for it."""
    page.fill("#prompt", prompt)
    page.keyboard.press("Control+Enter")
    page.locator("#caption", has_text=prompt).wait_for(timeout=PATIENCE)
    page.locator(".stage[data-mode=video] .facts").wait_for(timeout=PATIENCE)


def going(browser: Browser, url: str, folder: Path) -> None:
    """A run in the middle, in the dark."""
    page = browser.new_page(viewport=DESK, color_scheme="dark")
    page.goto(url)
    page.locator(".field").first.wait_for()
    page.fill("#prompt", "a red circle moves left on a black background")
    page.fill("#field-num_inference_steps", "64")
    page.click("#run")
    page.locator(".stage[data-mode=making]").wait_for(timeout=PATIENCE)
    step = page.locator(".phase.is-now", has_text="Denoising")
    step.wait_for(timeout=PATIENCE)
    while int((step.text_content() or "0/").split()[-1].split("/")[0]) < 40:
        page.wait_for_timeout(50)
    take(page, folder / "playground-running.png", pause=0)
    page.get_by_role("button", name="Cancel").click()


def phone(browser: Browser, url: str, folder: Path, run_id: str) -> None:
    """Light and dark, side by side."""
    shots = []
    for scheme in ("light", "dark"):
        context = browser.new_context(
            viewport=PHONE, color_scheme=scheme, is_mobile=True, has_touch=True
        )
        page = context.new_page()
        page.goto(f"{url}/#/run/{run_id}")
        page.locator(".facts").wait_for()
        page.wait_for_timeout(1200)
        shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    pair = Image.new("RGB", (2 * PHONE["width"] + 24, PHONE["height"]), (255, 255, 255))
    pair.paste(shots[0], (0, 0))
    pair.paste(shots[1], (PHONE["width"] + 24, 0))
    save(pair, folder / "playground-phone.png")


def take(page: Page, path: Path, pause: int = 1200) -> None:
    """The window as it stands."""
    page.wait_for_timeout(pause)
    save(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), path)


def save(picture: Image.Image, path: Path) -> None:
    """In 255 colours: a third of the bytes, and no difference to the eye."""
    picture.quantize(255, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


if __name__ == "__main__":
    main()
