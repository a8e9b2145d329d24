"""Requests in one batch: each video is what it would be alone, whatever happens to the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mochi.core.errors import Cancelled, OutputError, SamplingError
from mochi.core.events import CancelToken, Event, StepDone
from mochi.core.request import GenerateRequest
from mochi.model.dit import AsymmDiT
from mochi.pipeline.clip import Rendered
from mochi.pipeline.fitting import fit_together
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.together import Order, generate_together, together_tokens
from mochi.video.reader import iter_frames

PROMPTS = ("a red circle", "a blue square grows on a white background", "a green triangle")
SOLVERS = ("euler", "ab2", "dpmpp_2m")


def requests(pipe: Pipeline, **settings: Any) -> list[GenerateRequest]:
    settings = {"steps": 4, "frames": 7, "guidance": 3.0, **settings}
    made = [pipe.request(prompt, seed=seed, **settings) for seed, prompt in enumerate(PROMPTS)]
    return [*made[:-1], replace(made[-1], negative_prompt="a circle", fps=7)]


def orders(folder: Path, made: list[GenerateRequest], **more: Any) -> list[Order]:
    return [Order(folder / f"{number}.mp4", it, **more) for number, it in enumerate(made)]


def is_alike(found: object, alone: Rendered) -> bool:
    assert isinstance(found, Rendered), found
    one, other = found.latents.latent.tensor, alone.latents.latent.tensor
    return found.request == alone.request and torch.allclose(one, other, rtol=1e-4, atol=1e-4)


class Counted:
    """Counts walks through the transformer, and the rows of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.rows: list[int] = []
        real = AsymmDiT.velocities

        def velocities(dit: AsymmDiT, z: torch.Tensor, *rest: Any) -> list[torch.Tensor]:
            self.rows.append(len(z))
            return real(dit, z, *rest)

        monkeypatch.setattr(AsymmDiT, "velocities", velocities)


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_is_what_it_would_be_alone(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: str
) -> None:
    made = requests(pipe, solver=solver, linear_every=2)
    alone = [pipe.generate(it) for it in made]
    counted = Counted(monkeypatch)
    together = generate_together(pipe, orders(tmp_path, made))
    assert set(counted.rows) == {3}
    assert all(map(is_alike, together, alone))
    for number, clip in enumerate(alone):
        frames = np.stack(list(iter_frames(tmp_path / f"{number}.mp4")))
        assert frames.shape == clip.frames.shape
    assert is_alike(pipe.generate(made[0]), alone[0])  # the pipeline is as it was


def test_guidance_of_one_pass_and_of_each_step(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = requests(pipe, guidance=[3.0, 1.0, 0.0, 2.0])
    alone = [pipe.generate(it) for it in made]
    assert all(map(is_alike, generate_together(pipe, orders(tmp_path, made)), alone))


def test_one_that_is_cancelled_leaves_the_others_alone(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = requests(pipe)
    alone = [pipe.generate(it) for it in made]
    counted, token = Counted(monkeypatch), CancelToken()

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            token.cancel()

    some = orders(tmp_path, made)
    some[1] = replace(some[1], on_event=stop, cancel=token)
    found = generate_together(pipe, some)
    assert counted.rows == [3, 3, 2, 2]
    assert isinstance(found[1], Cancelled)
    assert is_alike(found[0], alone[0])
    assert is_alike(found[2], alone[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.mp4", "2.mp4"]


def test_when_all_are_cancelled_the_device_stops_within_a_step(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = CancelToken()
    counted = Counted(monkeypatch)

    def stop(event: Event) -> None:
        if isinstance(event, StepDone):
            token.cancel()

    some = orders(tmp_path, requests(pipe), on_event=stop, cancel=token)
    assert all(isinstance(it, Cancelled) for it in generate_together(pipe, some))
    assert counted.rows == [3]
    assert not list(tmp_path.iterdir())


def test_one_that_cannot_be_written(pipe: Pipeline, tmp_path: Path) -> None:
    some = orders(tmp_path, requests(pipe))
    (tmp_path / "file").touch()
    some[0] = replace(some[0], path=tmp_path / "file" / "a.mp4")
    found = generate_together(pipe, some)
    assert isinstance(found[0], OutputError)
    assert all(isinstance(it, Rendered) for it in found[1:])


def test_when_the_network_fails_all_hear_of_it(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise SamplingError("no numbers")

    monkeypatch.setattr(AsymmDiT, "velocities", broken)
    found = generate_together(pipe, orders(tmp_path, requests(pipe)))
    assert [str(it) for it in found] == ["no numbers"] * 3


def test_alone_in_the_meeting(pipe: Pipeline, tmp_path: Path) -> None:
    (request, *_) = requests(pipe)
    (found,) = generate_together(pipe, orders(tmp_path, [request]))
    assert is_alike(found, pipe.generate(request))


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({"prompt": "x", "negative_prompt": "y", "seed": 9, "fps": 5}, True),
        ({"steps": 5}, False),
        ({"frames": 13}, False),
        ({"guidance": 2.0}, False),
        ({"solver": "ab2"}, False),
        ({"threshold": 0.2}, False),
        ({"step_cache": "tea"}, False),
    ],
)
def test_what_fits(pipe: Pipeline, change: dict[str, Any], fits: bool) -> None:
    request = pipe.request("a", seed=0, frames=7, guidance=3.0)
    assert fit_together(request, replace(request, **change)) is fits
    cached = replace(request, step_cache="tea")
    assert not fit_together(cached, cached)


def test_large_clips_fill_a_device_alone() -> None:
    assert 0 < together_tokens("cpu") < together_tokens("cuda") < 2 * 44_520
