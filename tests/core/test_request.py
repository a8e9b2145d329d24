"""A request is checked once, at the door, and travels as plain JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.core.errors import RequestError
from mochi.core.presets import PRESETS, get_preset
from mochi.core.request import MAX_PROMPT_CHARS, GenerateRequest

GOOD: dict[str, Any] = {
    "prompt": "a cat",
    "frames": 25,
    "height": 64,
    "width": 64,
    "steps": 8,
    "guidance": 4.5,
    "seed": 0,
}


@given(
    st.text(min_size=1, max_size=200).filter(str.strip),
    st.integers(0, 2**63 - 1),
    st.lists(st.floats(0, 100), min_size=3, max_size=3),
)
def test_json_there_and_back(prompt: str, seed: int, guidance: list[float]) -> None:
    request = GenerateRequest(
        **GOOD | {"prompt": prompt, "seed": seed, "guidance": guidance, "steps": 3}
    )
    assert GenerateRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("prompt", "", "empty"),
        ("prompt", " \n", "empty"),
        ("prompt", "x" * 100_000, f"100000 characters, at most {MAX_PROMPT_CHARS}"),
        ("prompt", 7, "not text"),
        ("prompt", "a cat \ud83d", "not valid Unicode at character 7"),
        ("negative_prompt", "\udcff", "nearest: ?"),
        ("negative_prompt", "x" * 100_000, "100000 characters"),
        ("frames", 24, "nearest: 19 and 25"),
        ("height", 0, "at least 1"),
        ("width", 65, "nearest: 64 and 80"),
        ("steps", 0, "at least 1"),
        ("steps", 1001, "nearest: 1000"),
        ("steps", 2.5, "not a whole number"),
        ("guidance", float("nan"), "not a finite number"),
        ("guidance", float("inf"), "not a finite number"),
        ("guidance", -1, "nearest: 0.0"),
        ("guidance", [4.5] * 7, "has 7 scales for 8 steps"),
        ("guidance", "6", "not a finite number"),
        ("seed", -1, "at least 0"),
        ("seed", 2**63, "at most"),
        ("fps", 0, "at least 1"),
        ("solver", "heun", "nearest: euler, ab2, dpmpp_2m"),
        ("threshold", 0.0, "between 0 and 1"),
        ("threshold", 1.5, "between 0 and 1"),
        ("linear_steps", 9, "exceeds steps=8"),
        ("linear_steps", 0, "at least 1"),
        ("preset", "turbo", "nearest: standard, fast, draft"),
    ],
)
def test_every_rule_names_its_field(field: str, value: object, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        GenerateRequest(**GOOD | {field: value})
    assert caught.value.field == field
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_unknown_and_missing_fields() -> None:
    with pytest.raises(RequestError, match="num_frames=9 is no field of a request"):
        GenerateRequest.from_dict(GOOD | {"num_frames": 9})
    with pytest.raises(RequestError, match="incomplete"):
        GenerateRequest.from_dict({"prompt": "a cat"})


def test_presets_are_the_published_ones() -> None:
    standard, fast = PRESETS["standard"], PRESETS["fast"]
    assert (standard.steps, standard.threshold, standard.guidance) == (64, 0.025, 6.0)
    assert (fast.steps, fast.threshold, fast.linear_steps, fast.guidance) == (8, 0.1, 6, 1.5)
    assert get_preset("draft").steps < standard.steps
