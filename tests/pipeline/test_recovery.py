"""Out of memory at each stage: once more with less, and nothing that was finished is lost."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mochi
from mochi.core.errors import DoesNotFitError
from mochi.core.events import Event, FramesDone, Notice, PhaseStarted
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.pipeline.latents import StoredLatents
from mochi.pipeline.pipeline import Pipeline
from mochi.text.encoder import TextEncoder

PROMPT = "a red circle moves left on a black background"
ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(ALLOCATOR)]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let a method fail at some of its calls (from 0); gives the list of calls so far."""

    def patch(owner: type, name: str, at: set[int], error: BaseException) -> list[int]:
        original, calls = getattr(owner, name), []

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(len(calls))
            if calls[-1] in at:
                raise error
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, method)
        return calls

    return patch


@pytest.fixture
def expected(pipe: Pipeline) -> np.ndarray:
    return pipe.generate(PROMPT, seed=0).frames


class Heard(list[Event]):
    """What a run said."""

    @property
    def phases(self) -> list[str]:
        return [event.phase for event in self if isinstance(event, PhaseStarted)]

    @property
    def second_chances(self) -> list[str]:
        return [it.message for it in self if isinstance(it, Notice) and "once more" in it.message]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_denoising_begins_again_with_the_text_that_is_there(
    tiny_model: Path, fails: Any, expected: np.ndarray, error: Exception
) -> None:
    encoded = fails(TextEncoder, "encode", set(), error)
    fails(AsymmDiT, "velocities", {2}, error)
    pipe, heard = mochi.load(str(tiny_model)), Heard()
    assert np.array_equal(pipe.generate(PROMPT, seed=0, on_event=heard.append).frames, expected)
    assert len(encoded) == 1
    assert heard.phases == ["text", "load", "denoise", "load", "denoise", "decode"]
    (line,) = heard.second_chances
    assert "denoise" in line
    assert "--memory balanced" in line
    assert (pipe.parts.mode("dit"), pipe.parts.mode("text")) == ("balanced", "high")
    heard.clear()
    assert np.array_equal(pipe.generate(PROMPT, seed=0, on_event=heard.append).frames, expected)
    assert pipe.parts.mode("dit") == "balanced"  # what failed once is not tried again
    assert heard.phases == ["text", "load", "denoise", "decode"]


def test_text_is_read_again(tiny_model: Path, fails: Any, expected: np.ndarray) -> None:
    fails(TextEncoder, "encode", {0}, MemoryError())
    pipe, heard = mochi.load(str(tiny_model), memory="low"), Heard()
    assert np.array_equal(pipe.generate(PROMPT, seed=0, on_event=heard.append).frames, expected)
    assert heard.phases == ["text", "text", "load", "denoise", "decode"]
    assert "--memory minimal" in heard.second_chances[0]


def failing_stream(after: int, times: int) -> Callable[..., Iterator[torch.Tensor]]:
    """A stream that runs out of memory after some pieces, so many times."""
    original, left = Decoder.stream, [times]

    def stream(self: Decoder, latents: torch.Tensor, *args: Any, **more: Any) -> Any:
        for index, pixels in enumerate(original(self, latents, chunk=1)):
            if index == after and left[0]:
                left[0] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield pixels

    return stream


@pytest.mark.parametrize("after", [0, 1, 2])
def test_decoding_goes_on_and_gives_each_frame_once(
    tiny_model: Path,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    monkeypatch.setattr(Decoder, "stream", failing_stream(after, times=1))
    pipe, heard = mochi.load(str(tiny_model)), Heard()
    found = pipe.generate(PROMPT, seed=0, on_event=heard.append).frames
    assert found.shape == expected.shape
    assert np.max(np.abs(found.astype(int) - expected)) <= 1  # other pieces round otherwise
    assert heard.phases == ["text", "load", "denoise", "decode", "decode"]
    done = [event.frames for event in heard if isinstance(event, FramesDone)]
    assert done == [1, 7, 13]


def test_the_second_time_is_an_error_that_keeps_the_latents(
    tiny_model: Path, tmp_path: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = mochi.load(str(tiny_model))
    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "stream", failing_stream(1, times=2))
        with pytest.raises(DoesNotFitError, match="out of memory in the decode phase") as caught:
            pipe.generate_to(tmp_path / "a.gif", PROMPT, seed=0)
    assert list(tmp_path.iterdir()) == []
    latents = caught.value.latents
    assert isinstance(latents, StoredLatents)
    assert np.array_equal(pipe.generate(PROMPT, seed=0, latents=latents).frames, expected)


def test_one_run_has_one_second_chance(tiny_model: Path, fails: Any) -> None:
    fails(TextEncoder, "encode", {0}, MemoryError())
    fails(AsymmDiT, "velocities", {1}, MemoryError())
    pipe, heard = mochi.load(str(tiny_model)), Heard()
    with pytest.raises(DoesNotFitError, match="denoise") as caught:
        pipe.generate(PROMPT, seed=0, on_event=heard.append)
    assert caught.value.latents is None
    assert len(heard.second_chances) == 1
    assert pipe.generate(PROMPT, seed=0).frames.shape == (13, 32, 32, 3)  # and the next has its own


def test_the_smallest_mode_has_no_smaller_one(tiny_model: Path, fails: Any) -> None:
    calls = fails(AsymmDiT, "velocities", {0, 1}, MemoryError())
    pipe = mochi.load(str(tiny_model), memory="minimal")
    with pytest.raises(DoesNotFitError, match="fewer frames or fewer pixels"):
        pipe.generate(PROMPT, seed=0)
    assert len(calls) == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny_model: Path, fails: Any) -> None:
    calls = fails(AsymmDiT, "velocities", {0}, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        mochi.load(str(tiny_model)).generate(PROMPT, seed=0)
    assert len(calls) == 1
