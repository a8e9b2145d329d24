"""Videos that several processes make: the frames of one, and what happens when a process fails."""

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.parallel import faults
from tests.parallel.same import frames_in, same_frames

import mochi
from mochi.core.errors import Cancelled, DoesNotFitError, MochiError, RankError, RequestError
from mochi.core.events import CancelToken, Notice, PhaseEnded, StepDone
from mochi.parallel import crew as supervisor
from mochi.pipeline.parallel import ParallelPipeline
from mochi.text.features import TextFeatures

PROMPT = "a red circle moves left on a black background"
STEPS = {"steps": 4, "seed": 5}
PATIENCE_SECONDS = 600.0


def open_two(model: Path, **settings: Any) -> ParallelPipeline:
    pipe = mochi.load(str(model), device="cpu", devices=2, **settings)
    assert isinstance(pipe, ParallelPipeline)
    return pipe


@pytest.fixture(scope="module")
def two(tiny_model: Path) -> Iterator[ParallelPipeline]:
    with open_two(tiny_model) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def given(tiny_model: Path) -> dict[str, Any]:
    """Settings of a short run that needs no text encoder, which takes seconds to import."""
    width = mochi.load(str(tiny_model)).parts.blueprint("dit").config.text_features
    draw = torch.Generator().manual_seed(3)
    mask = torch.arange(256).unsqueeze(0) < 5
    features = torch.randn(1, 256, width, generator=draw) * mask.unsqueeze(-1)
    return STEPS | {"embeddings": TextFeatures(features, mask, (5,), ("",))}


def ranks_of(pipe: ParallelPipeline) -> dict[int, int]:
    ranks: Any = pipe.team.crew().ranks
    return dict(ranks.pids)


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(int(10 * PATIENCE_SECONDS)):
        if true():
            return
        time.sleep(0.1)
    raise TimeoutError


def test_the_frames_are_those_of_one_process(two: ParallelPipeline, tiny_model: Path) -> None:
    events: list[Any] = []
    clip = two.generate(PROMPT, preview=True, on_event=events.append, **STEPS)
    alone = mochi.load(str(tiny_model), device="cpu").generate(PROMPT, **STEPS)
    assert same_frames(clip.frames, alone.frames)
    assert clip.record == alone.record
    assert [e.step for e in events if isinstance(e, StepDone)] == [1, 2, 3, 4]
    pictures = [e.preview() for e in events if isinstance(e, StepDone) and e.preview]
    assert [p.shape for p in pictures] == [(3, 4, 4, 3)] * 4
    phases = [e.phase for e in events if isinstance(e, PhaseEnded)]
    assert phases == ["text", "load", "denoise", "decode"]
    assert any(isinstance(e, Notice) and "guidance=2,ulysses=1" in e.message for e in events)
    assert set(clip.seconds) == set(phases)


def test_the_processes_stay_for_the_next_video(
    two: ParallelPipeline, tiny_model: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    before = ranks_of(two)
    two.generate_to(tmp_path / "a", PROMPT, guidance=1.0, **given)
    alone = mochi.load(str(tiny_model), device="cpu").generate(PROMPT, guidance=1.0, **given)
    assert same_frames(frames_in(tmp_path / "a"), alone.frames)
    assert ranks_of(two) == before


def test_a_stopped_video_leaves_ranks_that_go_on(
    two: ParallelPipeline,
    given: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Ranks that do not stop in time are ended, and a machine may stand still for that long.
    monkeypatch.setattr(supervisor, "_STOP_SECONDS", PATIENCE_SECONDS)
    before, token = ranks_of(two), CancelToken()

    def stop(event: Any) -> None:
        if isinstance(event, StepDone):
            token.cancel()

    many = given | {"steps": 1000, "on_event": stop, "cancel": token}
    with pytest.raises(Cancelled):
        two.generate_to(tmp_path / "a.mp4", PROMPT, **many)
    assert list(tmp_path.iterdir()) == []
    assert ranks_of(two) == before
    assert len(two.generate(PROMPT, **given).frames) == 13


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (faults.runs_out_of_memory, DoesNotFitError, r"out of memory .*\(on rank 1\)"),
        pytest.param(
            faults.has_a_bug,
            RuntimeError,
            r"rank 1: ZeroDivisionError: a bug(.|\n)*faults\.py",
            marks=pytest.mark.long,
        ),
        (faults.is_killed, RankError, "rank 1 was ended by SIGKILL .*memory"),
        pytest.param(
            faults.leaves,
            RankError,
            "rank 1 ended with exit code 3: last words",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_rank_that_fails_ends_all_with_its_error_first(
    two: ParallelPipeline,
    given: dict[str, Any],
    tmp_path: Path,
    fault: Any,
    kind: type[Exception],
    words: str,
) -> None:
    pids = ranks_of(two)
    with pytest.raises(kind, match=words) as caught:
        two.generate_to(tmp_path / "a.mp4", PROMPT, wrap=fault, **given)
    assert isinstance(caught.value, MochiError) == (kind is not RuntimeError)
    assert not any(map(psutil.pid_exists, pids.values()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (faults.is_frozen, "rank 1 has not answered"),
        (faults.hangs, "rank 1 has done nothing for 20 s"),
        (faults.turns_for_ever, "rank 1 computes for"),
    ],
)
def test_a_rank_that_hangs_is_found(
    tiny_model: Path, given: dict[str, Any], fault: Any, words: str
) -> None:
    with open_two(tiny_model, parallel="ulysses=2") as pipe:
        pids = ranks_of(pipe)
        begun = time.monotonic()
        with pytest.raises(RankError, match=words):
            pipe.generate(PROMPT, wrap=fault, **given | {"steps": 40})
        assert time.monotonic() - begun < PATIENCE_SECONDS  # 30 s on a machine at rest
        assert not any(map(psutil.pid_exists, pids.values()))


@pytest.mark.long
def test_nothing_is_left_when_a_pipeline_goes(tiny_model: Path, given: dict[str, Any]) -> None:
    pipe = open_two(tiny_model, parallel="ring=2")
    pids = ranks_of(pipe).values()
    assert len(pipe.generate(PROMPT, **given).frames) == 13
    del pipe
    gc.collect()
    wait_until(lambda: not any(map(psutil.pid_exists, pids)))


def test_what_cannot_be_is_refused_before_a_process_starts(tiny_model: Path) -> None:
    model = str(tiny_model)
    refused = [
        ({"devices": 0}, "devices=0 is not a positive number"),
        ({"devices": 500}, "are too many processes"),
        ({"devices": 2, "device": "cuda"}, "are more than this machine has: no GPU"),
        ({"devices": 2, "device": "cuda:1"}, "is one device"),
        ({"devices": 3, "parallel": "ulysses=2"}, "takes 2 devices, and there are 3"),
        ({"devices": 3, "parallel": "ulysses=3"}, "cuts 2 heads into 3; nearest: .*ring=3"),
        ({"devices": 2, "parallel": "rings=2"}, "is not of the form"),
        ({"devices": 2, "parallel": "guidance=2", "memory": "huge"}, "memory"),
    ]
    for settings, words in refused:
        with pytest.raises(RequestError, match=words):
            mochi.load(model, **{"device": "cpu", **settings})
    pipe = open_two(tiny_model, parallel="guidance=2")
    with pytest.raises(RequestError, match=r"needs two passes in a step.*ulysses=2"):
        pipe.generate(PROMPT, guidance=1.0, **STEPS)
    with pytest.raises(RequestError, match="cannot be sent to other processes"):
        pipe.generate(PROMPT, wrap=lambda velocity: velocity, **STEPS)


@pytest.mark.gpu
def test_two_gpus_give_the_frames_of_one(tiny_model: Path, given: dict[str, Any]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    alone = mochi.load(str(tiny_model), device="cuda:0").generate(PROMPT, **given)
    for parallel in ("guidance=2", "ulysses=2", "ring=2"):
        with mochi.load(str(tiny_model), device="cuda", devices=2, parallel=parallel) as pipe:
            wrong = pipe.generate(PROMPT, **given).frames.astype(int) - alone.frames
            assert abs(wrong).max() <= 4  # TF32 and other kernels for other shapes
