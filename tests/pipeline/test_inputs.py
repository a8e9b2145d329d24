"""What may stand in for a stage of a run: text features, latents, a wrapped velocity."""

from pathlib import Path

import numpy as np
import pytest
import torch

import mochi
from mochi.core.errors import RequestError, WeightsError
from mochi.core.events import Event, StepDone
from mochi.core.latents import DitLatent
from mochi.pipeline.latents import StoredLatents
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.run import Schedule
from mochi.sampling.loop import sample
from mochi.sampling.noise import draw_noise

PROMPT = "a red circle moves left on a black background"


def test_embeddings_stand_in_for_prompts(pipe: Pipeline, tiny_model: Path, tmp_path: Path) -> None:
    clip = pipe.generate(PROMPT, seed=0, negative_prompt="blue square")
    clip.embeddings.save(tmp_path / "text.safetensors")
    kept = mochi.TextFeatures.load(tmp_path / "text.safetensors")
    fresh = mochi.load(str(tiny_model))
    again = fresh.generate("said differently", seed=0, embeddings=kept)
    assert np.array_equal(clip.frames, again.frames)
    assert not fresh.parts.is_loaded("text")
    assert "embeddings" in again.record
    alone = fresh.generate("words", seed=0, embeddings=kept[0], negative_prompt="blue square")
    assert np.array_equal(clip.frames, alone.frames)
    without = fresh.generate("words", seed=0, embeddings=kept[0])
    assert np.array_equal(without.frames, pipe.generate(PROMPT, seed=0).frames)


def test_embeddings_of_another_model_are_refused_before_loading(tiny_model: Path) -> None:
    fresh = mochi.load(str(tiny_model))
    with pytest.raises(RequestError, match="embeddings"):
        fresh.generate(PROMPT, embeddings=mochi.TextFeatures.empty(1, 256, 48))
    with pytest.raises(RequestError, match="embeddings"):
        fresh.generate(PROMPT, embeddings=mochi.TextFeatures.empty(3, 256, 32))
    assert not fresh.parts.is_loaded("dit")


def test_finished_latents_are_only_decoded(
    tiny_model: Path, pipe: Pipeline, tmp_path: Path
) -> None:
    clip = pipe.generate(PROMPT, seed=0)
    clip.latents.save(tmp_path / "z.safetensors")
    fresh = mochi.load(str(tiny_model))
    heard: list[Event] = []
    again = fresh.generate(
        PROMPT, latents=StoredLatents.load(tmp_path / "z.safetensors"), on_event=heard.append
    )
    assert np.array_equal(clip.frames, again.frames)
    assert not fresh.parts.is_loaded("dit")
    assert not any(isinstance(event, StepDone) for event in heard)


def test_latents_in_place_of_noise_and_half_way(pipe: Pipeline) -> None:
    request = pipe.request(PROMPT, seed=0, guidance=(4.0, 3.0, 2.0, 1.0))
    clip = pipe.generate(request)
    noise = DitLatent(draw_noise(request.size.latent.shape(), 0))
    again = pipe.generate(request, latents=StoredLatents(noise, sigma=1.0))
    assert np.array_equal(clip.frames, again.frames)
    sigmas = mochi.linear_quadratic(4)
    text, empty = clip.embeddings[0], clip.embeddings[1]
    inputs = text.features, text.mask, empty.features, empty.mask
    half = sample(pipe.parts.dit(), noise.tensor, *inputs, sigmas[:3], (4.0, 3.0))
    rest = pipe.generate(request, latents=StoredLatents(DitLatent(half), sigma=sigmas[2]))
    assert np.array_equal(clip.frames, rest.frames)


def test_latents_of_another_size_are_refused(pipe: Pipeline) -> None:
    wrong = StoredLatents(DitLatent(torch.zeros(1, 12, 2, 4, 4)))
    with pytest.raises(RequestError, match="latents"):
        pipe.generate(PROMPT, latents=wrong)


def test_a_schedule_that_is_half_done_keeps_the_guidance_of_its_steps(pipe: Pipeline) -> None:
    request = pipe.request(PROMPT, guidance=(4.0, 3.0, 2.0, 1.0))
    whole = Schedule.of(request)
    assert len(whole.sigmas) == 5
    later = Schedule.of(request, whole.sigmas[2])
    assert later.guidance == (2.0, 1.0)
    assert list(later.sigmas) == list(whole.sigmas[2:])
    assert Schedule.of(request, 0.0).sigmas == []


def test_a_wrapped_velocity_is_used(pipe: Pipeline) -> None:
    calls = []

    def trace(velocity):  # type: ignore[no-untyped-def]
        def traced(z, sigma, step):  # type: ignore[no-untyped-def]
            calls.append(step)
            return velocity(z, sigma, step)

        return traced

    clip = pipe.generate(PROMPT, seed=0, wrap=trace)
    assert calls == [0, 1, 2, 3]
    assert np.array_equal(clip.frames, pipe.generate(PROMPT, seed=0).frames)


@pytest.mark.parametrize("missing", ["tokenizer", "text_encoder"])
def test_a_model_without_text_parts_says_so_and_still_takes_embeddings(
    pipe: Pipeline, tiny_model: Path, tmp_path: Path, missing: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_model.iterdir():
        if path.name != missing:
            (folder / path.name).symlink_to(path)
    fresh = mochi.load(str(folder))
    with pytest.raises(WeightsError, match=missing):
        fresh.generate_to(tmp_path / "a.mp4", PROMPT)
    assert not (tmp_path / "a.mp4").exists()
    known = pipe.generate(PROMPT, seed=0)
    again = fresh.generate("words", seed=0, embeddings=known.embeddings)
    assert np.array_equal(known.frames, again.frames)
