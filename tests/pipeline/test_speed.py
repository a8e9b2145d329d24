"""Fast paths of a whole run: the same video, each announced, each with a switch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mochi
from mochi.core.errors import RequestError
from mochi.core.events import Notice
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.speed import tune

PROMPT = "a red circle moves left"


def clip(
    model: Path, speed: mochi.Speed | None, **settings: object
) -> tuple[mochi.Clip, list[str]]:
    said: list[str] = []
    pipe = mochi.load(model, device="cpu", speed=speed)
    found = pipe.generate(
        PROMPT,
        seed=0,
        on_event=lambda event: said.append(event.message) if isinstance(event, Notice) else None,
        **settings,
    )
    return found, said


@pytest.mark.parametrize(
    "speed",
    [
        mochi.Speed(),
        mochi.Speed(attention="sdpa"),
        mochi.Speed(attention="chunked"),
        mochi.Speed(kernels="plain"),
        mochi.Speed(passes="apart"),
        mochi.Speed(passes="together"),
        mochi.Speed(tables=False),
    ],
    ids=str,
)
def test_every_fast_path_makes_the_video_of_the_plain_one(
    tiny_model: Path, speed: mochi.Speed
) -> None:
    plain, _ = clip(tiny_model, mochi.Speed.plain(), guidance=3.0)
    fast, said = clip(tiny_model, speed, guidance=3.0)
    ours, theirs = fast.latents.latent.tensor, plain.latents.latent.tensor
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert abs(fast.frames.astype(int) - plain.frames.astype(int)).max() <= 1
    assert any(line.startswith("kernels: ") for line in said)
    assert any(line.startswith("attention: ") for line in said)


def test_what_is_announced_is_what_runs(tiny_model: Path) -> None:
    _, said = clip(tiny_model, None)
    first = "kernels: lean; modulation: of all steps at once; both passes of a step: one batch"
    assert first in said
    assert any(line.startswith("attention: sdpa (") for line in said)
    _, said = clip(tiny_model, mochi.Speed.plain())
    plain = "kernels: plain; modulation: step by step; both passes of a step: one after the other"
    assert plain in said
    assert "attention: sdpa (as asked for)" in said


def test_each_run_is_told_again(pipe: Pipeline) -> None:
    for _ in range(2):
        said: list[object] = []
        pipe.generate(PROMPT, seed=0, on_event=said.append)
        lines = [event.message for event in said if isinstance(event, Notice)]
        assert sum(line.startswith("attention: ") for line in lines) == 1


def test_an_attention_of_somebody_else_stays(pipe: Pipeline) -> None:
    dit = pipe.parts.dit()
    before, ours = dit.attention, torch.nn.functional.scaled_dot_product_attention
    dit.attention = ours
    tune(dit, mochi.Speed(attention="chunked"), 10, lambda line: None)
    assert dit.attention is ours
    dit.attention = before


@pytest.mark.parametrize("field", ["attention", "kernels", "passes"])
def test_unknown_words_are_refused(field: str) -> None:
    with pytest.raises(RequestError, match="auto, ") as caught:
        mochi.Speed(**{field: "warp"})
    assert caught.value.field == field
