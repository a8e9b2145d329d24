"""`mochi generate`, with the tiny model."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mochi as package
from mochi.cli.naming import default_output, slug
from mochi.cli.options import parse_guidance
from mochi.core.errors import RequestError
from mochi.video.metadata import read_request
from mochi.video.reader import read_video

PROMPT = "a red circle moves left on a black background"


def test_a_video_with_its_request_inside(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    done = mochi("generate", PROMPT, "--seed", 7, "--output", "a.mp4", "--model", tiny_model)
    assert done.code == 0
    assert re.fullmatch(r"a\.mp4: 32x32, 13 frames, seed 7, \d+\.\d s\n", done.out)
    assert "Denoising" in done.err
    record = read_request(here / "a.mp4")
    assert record["request"]["seed"] == 7
    assert record["request"]["prompt"] == PROMPT
    assert read_video(here / "a.mp4").shape == (13, 32, 32, 3)
    assert [path.name for path in here.iterdir()] == ["a.mp4"]


def test_the_command_makes_what_the_library_makes(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    words = ["--steps", 3, "--guidance", "1,2.5,1", "--frames", 7, "--height", 48, "--width", 16]
    words += ["--solver", "ab2", "--threshold", 0.1, "--linear-steps", 2, "--fps", 10]
    words += ["--negative-prompt", "blue", "--seed", 2, "--model", tiny_model, "--quiet"]
    assert mochi("generate", PROMPT, *words, "-o", "frames/").code == 0
    clip = package.load(str(tiny_model)).generate(
        PROMPT,
        steps=3,
        guidance=(1.0, 2.5, 1.0),
        frames=7,
        height=48,
        width=16,
        solver="ab2",
        threshold=0.1,
        linear_steps=2,
        fps=10,
        negative_prompt="blue",
        seed=2,
    )
    assert np.array_equal(read_video(here / "frames"), clip.frames)
    assert read_request(here / "frames")["request"] == clip.request.to_dict()


def test_quiet_says_nothing_and_json_says_all_as_json(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    quiet = mochi("generate", PROMPT, "--seed", 0, "-q", "-o", "a.gif", "--model", tiny_model)
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    done = mochi("generate", PROMPT, "--seed", 0, "--json", "-o", "b.gif", "--model", tiny_model)
    report = json.loads(done.out)
    assert done.err == ""
    assert report["output"] == "b.gif"
    assert report["prompt_tokens"] == 10
    assert report["request"]["seed"] == 0
    assert set(report["seconds"]) == {"text", "load", "denoise", "decode", "write"}


def test_a_video_nobody_named_gets_a_new_name(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    for _ in range(2):
        assert mochi("generate", PROMPT, "--seed", 7, "-q", "--model", tiny_model).code == 0
    assert sorted(path.name for path in here.iterdir()) == [
        "a-red-circle-moves-left-on-a-black-background-seed7-2.mp4",
        "a-red-circle-moves-left-on-a-black-background-seed7.mp4",
    ]


def test_slugs_are_safe_and_short(tmp_path: Path) -> None:
    assert slug("A Red, ball!") == "a-red-ball"
    assert slug("über ../../etc/passwd") == "uber-etc-passwd"
    assert slug("猫") == "video"
    assert len(slug("w" * 500)) == 48
    assert len(slug("some words " * 50)) <= 48
    assert default_output("猫", 3, tmp_path) == tmp_path / "video-seed3.mp4"


def test_like_repeats_a_video_and_options_change_it(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    mochi("generate", PROMPT, "--steps", 5, "-o", "a.gif", "--model", tiny_model)
    same = mochi("generate", "--like", "a.gif", "-o", "b.gif")
    assert same.code == 0, same.err
    assert (here / "a.gif").read_bytes() == (here / "b.gif").read_bytes()
    other = mochi("generate", "a blue square", "--like", "a.gif", "--preset", "fast", "-o", "c.mp4")
    assert other.code == 0
    first, third = (read_request(here / name)["request"] for name in ("a.gif", "c.mp4"))
    assert third["prompt"] == "a blue square"
    assert third["steps"] == 8
    assert third["seed"] == first["seed"]


def test_like_with_other_weights_says_so(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    import shutil

    mochi("generate", PROMPT, "-q", "-o", "a.mp4", "--model", tiny_model)
    shutil.copytree(tiny_model, here / "other")
    data = bytearray((here / "other" / "dit.safetensors").read_bytes())
    data[-1] ^= 1
    (here / "other" / "dit.safetensors").write_bytes(data)
    done = mochi("generate", "--like", "a.mp4", "-o", "b.mp4", "--model", "other")
    assert done.code == 0
    assert "will differ" in done.err


def test_embeddings_and_latents_go_out_and_in(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    model = ("--model", tiny_model, "-q", "--seed", 1)
    keep = ("--save-embeddings", "text.safetensors", "--save-latents", "z.safetensors")
    assert mochi("generate", PROMPT, "-o", "a/", *keep, *model).code == 0
    assert mochi("generate", "--embeddings", "text.safetensors", "-o", "b/", *model).code == 0
    words = ("--latents", "z.safetensors", "--embeddings", "text.safetensors")
    assert mochi("generate", *words, "-o", "c/", *model).code == 0
    videos = [read_video(here / name) for name in "abc"]
    assert np.array_equal(videos[0], videos[1])
    assert np.array_equal(videos[0], videos[2])
    assert read_request(here / "b")["request"]["prompt"] == "[text.safetensors]"
    taken = mochi("generate", PROMPT, "-o", "d/", *keep, *model)
    assert taken.code == 1
    assert "text.safetensors: exists already" in taken.err
    assert not (here / "d").exists()


def test_a_preview_picture_is_kept(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("--preview", "p.png", "-o", "a.mp4", "--model", tiny_model)
    assert mochi("generate", PROMPT, *words).code == 0
    with Image.open(here / "p.png") as picture:
        assert picture.size == (3 * 240, 240)  # three latent frames of 4 x 4, enlarged
    assert sorted(path.name for path in here.iterdir()) == ["a.mp4", "p.png"]
    again = mochi("generate", PROMPT, *words, "--overwrite")
    assert again.code == 0
    refused = mochi("generate", PROMPT, "--preview", "p.png", "-o", "b.mp4", "--model", tiny_model)
    assert (refused.code, "p.png: exists already" in refused.err) == (1, True)
    jpeg = mochi("generate", PROMPT, "--preview", "p.jpg", "-o", "c.mp4", "--model", tiny_model)
    assert (jpeg.code, "p.png" in jpeg.err) == (2, True)


def test_a_cut_prompt_is_a_warning_of_one_line(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.warns(UserWarning, match="white white"):
        done = mochi("generate", "red " * 255 + "white white", "-o", "a.gif", "--model", tiny_model)
    assert done.code == 0


@pytest.mark.parametrize(
    ("text", "guidance"),
    [(None, None), ("6", 6.0), ("1.5,2", (1.5, 2.0)), ("nan", None), ("", None), ("1,,2", None)],
)
def test_guidance_is_a_number_or_numbers(text: str | None, guidance: object) -> None:
    if guidance is None and text not in (None, "nan"):
        with pytest.raises(RequestError, match="guidance"):
            parse_guidance(text)
    elif text != "nan":
        assert parse_guidance(text) == guidance


def test_all_fast_paths_off_is_the_same_video(mochi, tiny_model: Path, here: Path) -> None:  # type: ignore[no-untyped-def]
    words = ["generate", PROMPT, "--seed", 1, "--steps", 2, "--model", tiny_model]
    off = ["--attention", "sdpa", "--kernels", "plain", "--passes", "apart", "--no-tables"]
    assert mochi(*words, "-o", "fast/").code == 0
    done = mochi(*words, "-o", "plain/", *off)
    assert done.code == 0
    assert "kernels: plain; modulation: step by step" in done.err.replace("\n", " ")
    assert "attention: sdpa (as asked for)" in done.err
    fast, plain = (read_video(here / name).astype(int) for name in ("fast", "plain"))
    assert abs(fast - plain).max() <= 1
