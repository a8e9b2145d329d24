"""Where a setting comes from: explicit, preset, like, the model's defaults, in that order."""

import subprocess
import sys

import pytest

from mochi.core.errors import RequestError
from mochi.pipeline.settings import FIELDS, Settings, check_early, make_request

MODEL = Settings(frames=13, height=32, width=32, fps=12, steps=4, guidance=2.0, linear_steps=2)
SAID = {"prompt": "a red circle", "seed": 1}


def test_the_model_decides_what_nobody_says() -> None:
    request = make_request(SAID, defaults=MODEL)
    assert (request.frames, request.steps, request.guidance, request.fps) == (13, 4, 2.0, 12)
    assert request.linear_steps == 2
    assert request.preset is None


def test_like_goes_before_the_model_preset_before_like_and_words_before_all() -> None:
    like = make_request({**SAID, "steps": 30, "frames": 7, "guidance": 9.0}, defaults=MODEL)
    past = like.to_dict()
    assert make_request(SAID, defaults=MODEL, like=past).steps == 30
    mixed = make_request({**SAID, "guidance": 3.0}, defaults=MODEL, like=past, preset="fast")
    assert (mixed.steps, mixed.threshold, mixed.linear_steps) == (8, 0.1, 6)
    assert mixed.guidance == 3.0
    assert mixed.frames == 7
    assert mixed.preset == "fast"


def test_like_repeats_a_request_exactly() -> None:
    first = make_request({**SAID, "guidance": (1.0, 2.0, 3.0, 4.0)}, defaults=MODEL)
    assert make_request({}, defaults=Settings(), like=first.to_dict()) == first


def test_none_is_not_said_but_an_empty_negative_prompt_is() -> None:
    defaults = Settings(negative_prompt="blurry")
    assert make_request({**SAID, "negative_prompt": None}, defaults=defaults).negative_prompt
    assert make_request({**SAID, "negative_prompt": ""}, defaults=defaults).negative_prompt == ""


def test_linear_steps_do_not_outlive_their_number_of_steps() -> None:
    request = make_request({**SAID, "steps": 10}, defaults=MODEL)
    assert request.linear_steps is None
    assert make_request({**SAID, "steps": 4}, defaults=MODEL).linear_steps == 2
    preset = make_request({**SAID, "steps": 5}, defaults=MODEL, preset="fast")
    assert (preset.steps, preset.linear_steps, preset.threshold) == (5, None, 0.1)
    both = make_request({**SAID, "steps": 10, "linear_steps": 3}, defaults=MODEL)
    assert both.linear_steps == 3


@pytest.mark.parametrize("source", ["explicit", "like"])
def test_an_unknown_field_is_named_with_those_that_exist(source: str) -> None:
    foreign = {"step": 5}
    explicit = SAID | (foreign if source == "explicit" else {})
    with pytest.raises(RequestError, match=r"step=5 .*steps") as caught:
        make_request(explicit, defaults=MODEL, like=foreign if source == "like" else None)
    assert all(name in str(caught.value) for name in FIELDS)


@pytest.mark.parametrize(
    "bad",
    [
        {"frames": 160},
        {"height": 50},
        {"steps": 0},
        {"steps": -3},
        {"prompt": ""},
        {"prompt": "x" * 100_000},
        {"seed": -1},
        {"solver": "heun"},
        {"fps": 0},
        {"width": float("nan")},
    ],
)
def test_what_no_model_could_make_right_is_refused_early(bad: dict[str, object]) -> None:
    with pytest.raises(RequestError) as caught:
        check_early(bad)
    assert caught.value.field == next(iter(bad))


def test_what_depends_on_the_model_is_not_refused_early() -> None:
    check_early({"guidance": (1.0, 2.0, 3.0, 4.0)})  # right for a model of four steps
    check_early({"linear_steps": 100})
    with pytest.raises(RequestError):
        check_early({}, preset="slow")


def test_the_early_check_imports_no_torch() -> None:
    code = (
        "import sys; from mochi.pipeline.settings import check_early; check_early({'steps': 4});"
        "from mochi.video.formats import target_of; target_of('a.mp4');"
        "sys.exit('torch' in sys.modules or 'av' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 0
