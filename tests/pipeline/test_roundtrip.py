"""Through the VAE and back."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import mochi
from mochi.core.errors import Cancelled, DoesNotFitError, RequestError, WeightsError
from mochi.core.events import CancelToken
from mochi.core.latents import MOCHI_STATS, DitLatent
from mochi.pipeline import budget as budget_module
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.preview import fit_preview, to_uint8
from mochi.pipeline.roundtrip import Psnr, to_pixels


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (13, 32, 48, 3), dtype=np.uint8)


def test_psnr_in_parts_is_psnr_of_the_whole_in_floating_point(video: np.ndarray) -> None:
    copy = np.clip(video.astype(int) + 3, 0, 255).astype(np.uint8)
    psnr = Psnr()
    psnr.add(video[:5], copy[:5])
    psnr.add(video[5:], copy[5:])
    error = np.mean((video.astype(float) - copy.astype(float)) ** 2)
    assert psnr.decibels == pytest.approx(10 * math.log10(255**2 / error), rel=1e-12)
    same = Psnr()
    same.add(video, video)
    assert same.decibels == math.inf


def test_a_round_trip_is_encoder_and_decoder_in_one_shot(
    pipe: Pipeline, tiny_model: Path, video: np.ndarray
) -> None:
    chunks: list[np.ndarray] = []
    decibels = pipe.reconstruct(video, chunks.append)
    encoder = mochi.load_encoder(tiny_model / "encoder.safetensors")
    decoder = mochi.load_decoder(tiny_model / "decoder.safetensors")
    with torch.no_grad():
        pixels = decoder(encoder(to_pixels(video)).mean)
    whole = to_uint8(pixels[0]).permute(1, 2, 3, 0).numpy()
    copy = np.concatenate(chunks)
    assert np.abs(copy.astype(int) - whole.astype(int)).max() <= 1
    psnr = Psnr()
    psnr.add(video, copy)
    assert decibels == psnr.decibels


def test_pixels_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    pixels = to_pixels(every)
    assert pixels.min() == -1
    assert pixels.max() == 1
    assert np.array_equal(to_uint8(pixels[0]).permute(1, 2, 3, 0).numpy(), every)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((12, 32, 32, 3), np.uint8),
        np.zeros((13, 30, 32, 3), np.uint8),
        np.zeros((13, 32, 32, 4), np.uint8),
        np.zeros((13, 32, 32, 3), np.float32),
        np.zeros((13, 32, 32), np.uint8),
    ],
)
def test_frames_that_break_a_rule(pipe: Pipeline, bad: np.ndarray) -> None:
    with pytest.raises(RequestError):
        pipe.reconstruct(bad, lambda frames: pytest.fail("nothing should come"))


def test_what_does_not_fit(
    pipe: Pipeline, video: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "host_available_bytes", lambda: 1000)
    with pytest.raises(DoesNotFitError):
        pipe.reconstruct(video, lambda frames: None)


def test_a_cancel_stops_it(
    pipe: Pipeline, video: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mochi.model.decoder.piece_bytes", lambda device: 1)  # many pieces
    token, taken = CancelToken(), []

    def take(frames: np.ndarray) -> None:
        taken.append(len(frames))
        token.cancel()

    with pytest.raises(Cancelled):
        pipe.reconstruct(video, take, cancel=token)
    assert len(taken) == 1
    assert taken[0] < len(video)


def test_a_model_without_an_encoder_says_so(
    tiny_model: Path, tmp_path: Path, video: np.ndarray
) -> None:
    for path in tiny_model.iterdir():
        if path.name != "encoder.safetensors":
            (tmp_path / path.name).symlink_to(path)
    bare = mochi.load(str(tmp_path))
    with pytest.raises(WeightsError, match="encoder"):
        bare.reconstruct(video, lambda frames: None)
    assert bare.generate("a red circle", seed=0).frames.shape[0] == 13


def test_the_preview_is_the_best_linear_guess_at_the_decoder(pipe: Pipeline) -> None:
    """On latents it was not fitted to: far closer than grey, the best constant."""
    decoder = pipe.parts.decoder()
    picture = fit_preview(decoder, MOCHI_STATS)
    flat = torch.randn(40, 12, generator=torch.Generator().manual_seed(9))
    z = flat[:, :, None, None, None].expand(-1, -1, 1, 4, 4)
    with torch.no_grad():
        pixels = decoder(MOCHI_STATS.denormalize(DitLatent(z)).tensor)
    truth = to_uint8(pixels.mean(dim=(2, 3, 4))).float().numpy()
    guess = np.stack([picture(row[None])[0].mean(axis=(0, 1)) for row in z])
    error, spread = np.abs(guess - truth).mean(), np.abs(truth - truth.mean(axis=0)).mean()
    assert error < 0.5 * spread


def test_the_copy_is_the_same_in_every_memory_mode(tiny_model: Path, video: np.ndarray) -> None:
    expected = mochi.load(str(tiny_model), memory="high").reconstruct(video, lambda frames: None)
    for memory in ("balanced", "minimal", "auto"):
        pipe = mochi.load(str(tiny_model), memory=memory)
        assert pipe.reconstruct(video, lambda frames: None) == expected
        kept = [pipe.parts.is_loaded(name) for name in ("encoder", "decoder")]
        assert kept == [memory == "auto"] * 2


def test_an_encoder_without_memory_has_a_second_chance(
    tiny_model: Path, video: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, heard = mochi.load(str(tiny_model)), []
    expected = pipe.reconstruct(video, lambda frames: None)
    load, failures = type(pipe.parts).encoder, [MemoryError()]

    def encoder(self: object) -> object:
        if failures:
            raise failures.pop()
        return load(self)

    monkeypatch.setattr(type(pipe.parts), "encoder", encoder)
    assert pipe.reconstruct(video, lambda frames: None, on_event=heard.append) == expected
    assert any("once more with --memory balanced" in str(event) for event in heard)


def test_pictures_are_fitted_once(pipe: Pipeline) -> None:
    assert pipe.parts.picture() is pipe.parts.picture()
