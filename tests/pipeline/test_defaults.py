"""The model card: a few numbers beside the weights."""

import json
from pathlib import Path

import pytest

from mochi.core.errors import WeightsError
from mochi.pipeline.defaults import ModelCard, read_card
from mochi.pipeline.settings import Settings


def card(folder: Path, content: object) -> Path:
    path = folder / "mochi.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_no_card_is_the_published_model() -> None:
    assert read_card(None) == ModelCard()
    settings = ModelCard().settings
    assert (settings.frames, settings.height, settings.width) == (163, 480, 848)
    assert (settings.steps, settings.guidance, settings.threshold) == (64, 6.0, 0.025)


def test_a_card_says_what_differs(tmp_path: Path) -> None:
    defaults = {"frames": 25, "height": 64, "width": 64, "steps": 12, "guidance": [3.0] * 12}
    read = read_card(card(tmp_path, {"name": "nano", "licence": "MIT", "defaults": defaults}))
    assert (read.name, read.licence) == ("nano", "MIT")
    assert read.settings == Settings(
        frames=25, height=64, width=64, steps=12, guidance=(3.0,) * 12, linear_steps=None
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[1]", "no JSON object"),
        ({"defaults": 3}, "no JSON object"),
        ({"defaults": {"frames": 26}}, "6k\\+1"),
        ({"defaults": {"step": 26}}, "step=26"),
        ({"defaults": {"steps": 4, "guidance": [1.0]}}, "guidance"),
        ({"defaults": {"prompt": "x"}}, "prompt"),
    ],
)
def test_a_wrong_card_is_one_clear_line(tmp_path: Path, content: object, says: str) -> None:
    with pytest.raises(WeightsError, match=says) as caught:
        read_card(card(tmp_path, content))
    assert "mochi.json" in str(caught.value)


def test_a_card_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        read_card(tmp_path)
