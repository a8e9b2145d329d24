"""From a prompt to frames with a whole, tiny, random model."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import mochi
from mochi.core.errors import Cancelled, DoesNotFitError, RequestError, SamplingError
from mochi.core.events import CancelToken, Event, FramesDone, PhaseEnded, PhaseStarted, StepDone
from mochi.pipeline import budget as budget_module
from mochi.pipeline import prompts as prompts_module
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.run import to_frames
from mochi.sampling.loop import sample
from mochi.sampling.noise import draw_noise
from mochi.video.metadata import read_request

PROMPT = "a red circle moves left on a black background"


def test_a_prompt_becomes_frames_of_the_models_size(pipe: Pipeline) -> None:
    clip = pipe.generate(PROMPT, seed=0)
    assert clip.frames.shape == (13, 32, 32, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.request.model == pipe.name
    assert clip.prompt_tokens == 10  # nine words and </s>
    assert clip.truncated == ""
    assert set(clip.seconds) == {"text", "load", "denoise", "decode"}


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tiny_model: Path) -> None:
    first = mochi.load(str(tiny_model)).generate(PROMPT, seed=3).frames
    again = mochi.load(str(tiny_model)).generate(PROMPT, seed=3).frames
    other = mochi.load(str(tiny_model)).generate(PROMPT, seed=4).frames
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_pipeline_is_its_public_parts_in_a_row(pipe: Pipeline, tiny_model: Path) -> None:
    request = pipe.request(PROMPT, seed=5, guidance=3.0, steps=3)
    clip = pipe.generate(request)
    dit = mochi.load_dit(tiny_model / "dit.safetensors")
    decoder = mochi.load_decoder(tiny_model / "decoder.safetensors")
    text, empty = clip.embeddings[0], clip.embeddings[1]
    z = sample(
        dit,
        draw_noise(request.size.latent.shape(), 5),
        text.features,
        text.mask,
        empty.features,
        empty.mask,
        mochi.linear_quadratic(3, 0.025),
        3.0,
    )
    with torch.no_grad():
        pixels = decoder(mochi.to_vae_latents(z))
    whole = (((pixels[0] + 1) / 2).clamp(0, 1) * 255).round().byte().permute(1, 2, 3, 0).numpy()
    assert torch.equal(z, clip.latents.latent.tensor)
    assert np.abs(whole.astype(int) - clip.frames.astype(int)).max() <= 1  # streamed, one-shot


def test_a_file_holds_the_frames_of_the_clip_and_the_whole_request(
    pipe: Pipeline, tmp_path: Path
) -> None:
    clip = pipe.generate(PROMPT, seed=1)
    saved = clip.save(tmp_path / "saved.gif")
    written = pipe.generate_to(tmp_path / "written.gif", PROMPT, seed=1)
    assert saved.read_bytes() == (tmp_path / "written.gif").read_bytes()
    record = read_request(saved)
    assert record == json.loads(json.dumps(clip.record))
    assert record == json.loads(json.dumps(written.record))
    assert record["request"] == clip.request.to_dict()
    assert record["model_hash"] == pipe.model_hash
    assert record["mochi_version"] == mochi.__version__
    assert "write" in written.seconds


def test_a_recorded_request_repeats_the_video(pipe: Pipeline) -> None:
    clip = pipe.generate(PROMPT, seed=1, steps=5, guidance=(1.0, 2.0, 3.0, 2.0, 1.0), frames=7)
    again = pipe.generate(PROMPT, like=clip.record["request"])
    assert np.array_equal(clip.frames, again.frames)


def test_a_seed_nobody_said_is_drawn_and_recorded(pipe: Pipeline) -> None:
    first, second = pipe.request(PROMPT), pipe.request(PROMPT)
    assert first.seed != second.seed  # once in four thousand million runs they are equal
    assert pipe.request(PROMPT, like=first.to_dict()).seed == first.seed


def test_events_come_in_order_and_count_everything(pipe: Pipeline, tmp_path: Path) -> None:
    heard: list[Event] = []
    pipe.generate_to(tmp_path / "a.gif", PROMPT, seed=0, on_event=heard.append)
    started = [event.phase for event in heard if isinstance(event, PhaseStarted)]
    ended = [event.phase for event in heard if isinstance(event, PhaseEnded)]
    assert started == ended == ["text", "load", "denoise", "decode", "write"]
    steps = [event for event in heard if isinstance(event, StepDone)]
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert steps[-1].eta_seconds == 0
    frames = [event.frames for event in heard if isinstance(event, FramesDone)]
    assert frames == sorted(frames)
    assert frames[-1] == 13


def test_a_preview_looks_like_the_video_it_becomes(pipe: Pipeline) -> None:
    pictures = []

    def listen(event: Event) -> None:
        if isinstance(event, StepDone):
            assert event.preview is not None
            pictures.append(event.preview())

    clip = pipe.generate(PROMPT, seed=0, preview=True, on_event=listen)
    assert [picture.shape for picture in pictures] == [(3, 4, 4, 3)] * 4
    last = pictures[-1].astype(float)
    means = clip.frames[[0, 6, 12]].reshape(3, 4, 8, 4, 8, 3).mean(axis=(2, 4))
    assert np.abs(means - last).mean() < np.abs(means - means.mean()).mean() + 12


@pytest.mark.parametrize("phase", ["text", "load", "denoise", "decode", "write"])
def test_a_cancel_in_any_phase_leaves_nothing(pipe: Pipeline, tmp_path: Path, phase: str) -> None:
    token = CancelToken()

    def listen(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == phase:
            token.cancel()

    if phase in ("text", "load"):  # what is there already is not stopped, what follows is
        expected = "denoise"
    else:
        expected = phase
    heard: list[Event] = []

    def both(event: Event) -> None:
        heard.append(event)
        listen(event)

    if phase == "write":  # nothing comes after it: the video is whole
        pipe.generate_to(tmp_path / "a.mp4", PROMPT, on_event=both, cancel=token)
        assert (tmp_path / "a.mp4").exists()
        return
    with pytest.raises(Cancelled):
        pipe.generate_to(tmp_path / "a.mp4", PROMPT, on_event=both, cancel=token)
    assert list(tmp_path.iterdir()) == []
    ended = {event.phase for event in heard if isinstance(event, PhaseEnded)}
    assert expected not in ended


def test_a_cancel_during_denoising_is_noticed_within_a_step(pipe: Pipeline) -> None:
    token, steps = CancelToken(), []

    def listen(event: Event) -> None:
        if isinstance(event, StepDone):
            steps.append(event.step)
            if event.step == 2:
                token.cancel()

    with pytest.raises(Cancelled):
        pipe.generate(PROMPT, steps=50, on_event=listen, cancel=token)
    assert steps == [1, 2]


def test_an_impossible_request_loads_nothing(tiny_model: Path, tmp_path: Path) -> None:
    fresh = mochi.load(str(tiny_model))
    bad = [
        {"frames": 14},
        {"threshold": 0.9, "linear_steps": 1, "steps": 50},  # no schedule
        {"steps": 4, "guidance": (1.0, 2.0)},
        {"colour": "red"},
        {"frames": 6 * 10**9 + 1},  # no memory
    ]
    for settings in bad:
        with pytest.raises((RequestError, DoesNotFitError)):
            fresh.generate_to(tmp_path / "a.mp4", PROMPT, **settings)
    for prompt in ("", "   ", "x" * 100_000, 7):
        with pytest.raises(RequestError, match="prompt"):
            fresh.generate(prompt)  # type: ignore[arg-type]
    assert not any(fresh.parts.is_loaded(name) for name in ("text", "dit", "decoder"))
    assert list(tmp_path.iterdir()) == []


def test_a_finished_request_takes_no_further_settings(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="settings"):
        pipe.generate(pipe.request(PROMPT), steps=3)


def test_what_does_not_fit_is_refused_before_loading(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = mochi.load(str(tiny_model))
    large = {"frames": 61, "height": 128, "width": 128}
    needs = fresh.budget.needs(fresh.request(PROMPT, **large).size)
    available = max(need.total for need in needs) - 1
    monkeypatch.setattr(budget_module, "host_available_bytes", lambda: available)
    with pytest.raises(DoesNotFitError, match="would fit"):
        fresh.generate(PROMPT, **large)
    assert not any(fresh.parts.is_loaded(name) for name in ("text", "dit", "decoder"))
    assert fresh.generate(PROMPT).frames.shape == (13, 32, 32, 3)


def test_the_transformer_makes_room_for_a_decoder_that_needs_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = mochi.load(str(tiny_model))
    expected = fresh.generate(PROMPT, seed=0).frames
    monkeypatch.setattr(type(fresh.budget), "decodes_beside", lambda self, size: False)
    assert np.array_equal(fresh.generate(PROMPT, seed=0).frames, expected)
    assert not fresh.parts.is_loaded("dit")


@pytest.mark.parametrize("memory", ["balanced", "low", "minimal"])
def test_the_text_encoder_is_gone_before_sampling(tiny_model: Path, memory: str) -> None:
    fresh = mochi.load(str(tiny_model), memory=memory)
    loaded = []

    def listen(event: Event) -> None:
        if isinstance(event, PhaseStarted):
            loaded.append((event.phase, fresh.parts.is_loaded("text")))

    first = fresh.generate(PROMPT, seed=0, on_event=listen)
    assert dict(loaded)["denoise"] is False
    assert np.array_equal(fresh.generate(PROMPT, seed=0).frames, first.frames)  # remembered
    assert not fresh.parts.is_loaded("text")


def test_prompts_are_encoded_together_and_once(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = mochi.load(str(tiny_model))
    fresh.prepare_prompts([PROMPT, "a blue square", PROMPT, ""])
    monkeypatch.setattr(type(fresh.parts), "text", lambda self: pytest.fail("loaded again"))
    clip = fresh.generate("a blue square", seed=0)
    assert clip.prompt_tokens == 4
    assert fresh.token_count(PROMPT) == 10


def test_tokens_are_counted_without_the_encoder(tiny_model: Path) -> None:
    fresh = mochi.load(str(tiny_model))
    assert [fresh.token_count(text) for text in ("", "a red circle", "red " * 300)] == [0, 4, 301]
    assert not fresh.parts.is_loaded("text")


def test_a_long_prompt_is_cut_with_a_warning_that_quotes(pipe: Pipeline) -> None:
    with pytest.warns(UserWarning, match="white white"):
        clip = pipe.generate("red " * 255 + "white white", seed=0)
    assert clip.prompt_tokens == 258
    assert clip.truncated == "white white"


def test_pixels_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(SamplingError, match="NaN"):
        to_frames(torch.full((1, 3, 1, 16, 16), float("nan")))
    frames = to_frames(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).expand(1, 3, 1, 1, 5))
    assert frames[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_bfloat16_networks_make_nearly_the_same_video(tiny_model: Path, pipe: Pipeline) -> None:
    half = mochi.load(str(tiny_model), dtype="bfloat16")
    assert half.parts.dit().pos_frequencies.dtype == torch.float32
    clip = half.generate(PROMPT, seed=0)
    assert clip.record["dtype"] == "bfloat16"
    difference = clip.frames.astype(int) - pipe.generate(PROMPT, seed=0).frames
    assert np.abs(difference).mean() < 8


def test_a_run_leaves_the_callers_random_state_alone(pipe: Pipeline) -> None:
    before = torch.random.get_rng_state()
    pipe.generate(PROMPT, preview=True)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_clip_is_a_value(pipe: Pipeline) -> None:
    clip = pipe.generate(PROMPT, seed=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        clip.frames = clip.frames[:1]  # type: ignore[misc]


def test_the_card_says_what_the_networks_compute_in(tiny_model: Path, tmp_path: Path) -> None:
    for path in tiny_model.iterdir():
        if path.name != "mochi.json":
            (tmp_path / path.name).symlink_to(path)
    card = json.loads((tiny_model / "mochi.json").read_text())
    (tmp_path / "mochi.json").write_text(json.dumps(card | {"dtype": "bfloat16"}))
    assert mochi.load(str(tmp_path)).parts.decoder().output_proj.weight.dtype == torch.bfloat16
    said = mochi.load(str(tmp_path), dtype="float32")
    assert said.parts.decoder().output_proj.weight.dtype == torch.float32
    (tmp_path / "mochi.json").write_text(json.dumps(card | {"dtype": "int3"}))
    with pytest.raises(RequestError, match="int3"):
        mochi.load(str(tmp_path))


def test_remembered_features_are_forgotten_oldest_first(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = mochi.load(str(tiny_model))
    one = 256 * 32 * 4
    monkeypatch.setattr(prompts_module, "REMEMBERED_BYTES", 3 * one)
    encoded: list[str] = []
    encoder = fresh.parts.text()
    encode = encoder.encode
    monkeypatch.setattr(
        encoder, "encode", lambda prompts: encoded.extend(prompts) or encode(prompts)
    )
    for prompts in (["a", "red"], ["circle"], ["red"], ["on"], ["a"], ["on", "black", "a"]):
        fresh.prepare_prompts(prompts)
    assert encoded == ["a", "red", "circle", "on", "a", "black"]
    many = ["left", "right", "white", "blue", "square"]
    fresh.prepare_prompts(many)  # more than may be remembered: all stay for now
    fresh.prepare_prompts(many)
    assert encoded[6:] == many
