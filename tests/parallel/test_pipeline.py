"""A request that a pipeline runs on several ranks gives the latents and frames of one process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parallel.crew import Crew
from tests.pipeline.test_loras import make_lora

import mochi
from mochi.core.errors import Cancelled
from mochi.core.events import CancelToken, StepDone
from mochi.parallel.mesh import Mesh
from mochi.parallel.scheme import Scheme
from mochi.parallel.world import World
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.run import Inputs
from mochi.pipeline.share import OnMesh
from mochi.pipeline.watch import Watch
from mochi.text.features import TextFeatures

PROMPT = "a red circle moves left on a black background"
SMALL = {"frames": 13, "height": 32, "width": 48, "steps": 3, "seed": 4}


def _features(pipe: Pipeline, tokens: int) -> TextFeatures:
    width = pipe.parts.blueprint("dit").config.text_features
    draw = torch.Generator().manual_seed(3)
    mask = torch.zeros(1, 256, dtype=torch.bool)
    mask[0, :tokens] = True
    features = torch.randn(1, 256, width, generator=draw) * mask.unsqueeze(-1)
    return TextFeatures(features, mask, (tokens,), ("",))


def _on_rank(
    world: World, scheme: str, loading: dict[str, Any], tokens: int | None, settings: dict[str, Any]
) -> Any:
    pipe = mochi.load(device="cpu", **loading)
    mesh = Mesh.join(Scheme.parse(scheme), world)
    mode = loading.get("memory", "high")
    modes = dict.fromkeys(("text", "dit", "decoder"), mode)
    share = pipe.share = OnMesh(mesh, world.device, CancelToken(), modes)
    given = None if tokens is None else _features(pipe, tokens)
    request = pipe.request(PROMPT, **settings)
    watch_frames: list[np.ndarray] = []
    facts = _run(pipe, request, given, watch_frames)
    assert {pipe.parts.mode(part) for part in modes} == {mode}
    assert share.mesh.traffic.total > 0
    frames = np.concatenate(watch_frames) if watch_frames else None
    return facts["latents"].latent.tensor.numpy(), frames


def _run(pipe: Pipeline, request: Any, given: Any, frames: list[np.ndarray]) -> Any:
    run = pipe.prepare_run(request, Inputs(embeddings=given), Watch())
    return pipe.finish_run(run, frames.append)


def _compare(
    crew: Crew,
    scheme: str,
    model: Path | str,
    tokens: int | None = None,
    within: float = 1e-5,
    loading: dict[str, Any] | None = None,
    **changed: Any,
) -> None:
    loading, settings = {"model": str(model)} | (loading or {}), SMALL | changed
    alone = mochi.load(device="cpu", **loading)
    given = None if tokens is None else _features(alone, tokens)
    clip = alone.generate(PROMPT, embeddings=given, **settings)
    found = crew.run(Scheme.parse(scheme).devices, _on_rank, scheme, loading, tokens, settings)
    for latents, _ in found:
        assert np.abs(clip.latents.latent.tensor.numpy() - latents).max() < within
    frames = found[0][1]
    assert frames.shape == clip.frames.shape
    wrong = np.abs(frames.astype(int) - clip.frames.astype(int))
    assert wrong.max() <= (1 if within < 1e-4 else 8)
    assert all(other is None for _, other in found[1:])


@pytest.mark.parametrize(
    ("scheme", "frames"),
    [("guidance=2,ulysses=3", 13), ("ulysses=2,ring=2", 1), ("ring=3", 19), ("ulysses=2", 7)],
)
def test_frames_of_nano_are_those_of_one_process(crew: Crew, scheme: str, frames: int) -> None:
    _compare(crew, scheme, "nano", frames=frames, steps=2)


@pytest.mark.parametrize("tokens", [0, 1, 17, 256])
@pytest.mark.parametrize("scheme", ["guidance=2,ulysses=2", "ulysses=2,ring=3"])
def test_prompts_of_any_length(crew: Crew, tiny_model: Path, scheme: str, tokens: int) -> None:
    _compare(crew, scheme, tiny_model, tokens=tokens, frames=7)


@pytest.mark.parametrize("memory", ["balanced", "low", "minimal"])
def test_weights_may_pass_block_by_block(crew: Crew, tiny_model: Path, memory: str) -> None:
    _compare(crew, "guidance=2,ulysses=2", tiny_model, loading={"memory": memory})


@pytest.mark.parametrize("cache", ["first-block:0.3", "tea:0.5"])
@pytest.mark.parametrize("scheme", ["ring=3", "guidance=2,ulysses=2"])
def test_step_caches_decide_alike(crew: Crew, tiny_model: Path, cache: str, scheme: str) -> None:
    # Guidance 1 in one step: a single pass, which one half of the ranks has not seen before.
    scales = [3.0, 3.0, 1.0, 3.0, 1.0, 3.0]
    _compare(crew, scheme, tiny_model, steps=6, step_cache=cache, guidance=scales)


def test_steps_that_are_left_out_are_left_out_everywhere(crew: Crew, tiny_model: Path) -> None:
    _compare(crew, "ring=2", tiny_model, steps=6, linear_every=2, solver="dpmpp_2m")


def test_bfloat16(crew: Crew, tiny_model: Path) -> None:
    # Sums in another order round differently: as far as bfloat16 goes, it is the same.
    loading = {"dtype": "bfloat16"}
    _compare(crew, "guidance=2,ulysses=2", tiny_model, within=0.15, loading=loading)


@pytest.mark.parametrize(
    ("mode", "memory"), [("live", "high"), ("merged", "high"), ("live", "low")]
)
def test_adapters(crew: Crew, tiny_model: Path, mode: str, memory: str, tmp_path: Path) -> None:
    path = make_lora(mochi.load(str(tiny_model), device="cpu"), tmp_path / "style.safetensors")
    loading = {"loras": [(str(path), 0.7)], "lora_mode": mode, "memory": memory}
    _compare(crew, "ulysses=2,ring=2", tiny_model, loading=loading)


def _cancelled(world: World, scheme: str, stopper: int, model: str) -> int:
    """Which step was the last before everybody stopped."""
    pipe = mochi.load(model, device="cpu")
    mesh = Mesh.join(Scheme.parse(scheme), world)
    asked, steps = CancelToken(), []
    share = pipe.share = OnMesh(mesh, world.device, asked)

    def listen(event: Any) -> None:
        if isinstance(event, StepDone):
            steps.append(event.step)
            if world.rank == stopper and event.step == 2:
                asked.cancel()

    with pytest.raises(Cancelled):
        pipe.generate(PROMPT, on_event=listen, cancel=share.cancel, **SMALL | {"steps": 9})
    pipe.share = OnMesh(mesh, world.device, CancelToken())
    frames: list[np.ndarray] = []
    _run(pipe, pipe.request(PROMPT, **SMALL), None, frames)
    assert sum(map(len, frames)) == (13 if world.rank == 0 else 0)
    return steps[-1]


def test_all_ranks_stop_at_the_same_step_and_go_on(crew: Crew, tiny_model: Path) -> None:
    assert crew.run(3, _cancelled, "ring=3", 1, str(tiny_model)) == [2, 2, 2]
