"""The real child process: nano in a runner, as `mochi serve` has it."""

from pathlib import Path

import pytest
from safetensors.torch import save_file
from tests.serving.jobs import MODEL
from tests.weights.lora.conftest import kwargs, pairs_for

import mochi
from mochi.pipeline.pipeline import Pipeline
from mochi.serving.runner.process import ProcessRunner
from mochi.serving.runner.protocol import LoraEntry, ModelEntry, RunFailedError, RunnerDiedError
from mochi.video.reader import iter_frames
from mochi.weights.lora_read import layer_sizes

pytestmark = pytest.mark.long  # in `make test` the whole command runs with nano


def make_lora(pipe: Pipeline, path: Path, seed: int) -> Path:
    state = pairs_for(layer_sizes(pipe.parts.dit()), seed=seed)
    save_file({name: 2 * tensor for name, tensor in state.items()}, path, metadata=kwargs(4, 8))
    return path


def test_nano_runs_in_a_child(tmp_path: Path) -> None:
    runner = ProcessRunner("cpu", [ModelEntry(MODEL, "nano")])
    heard: list[str] = []
    try:
        runner.start()
        request = runner.state.descriptions[MODEL].defaults | {"prompt": "a red circle", "seed": 1}
        request |= {"frames": 7, "steps": 4}
        path = tmp_path / "out.mp4"
        facts = runner.run("x", MODEL, request, path, lambda kind, data: heard.append(kind))
        assert path.read_bytes()[4:8] == b"ftyp"
        assert facts["prompt_tokens"] > 1
        assert {"phase", "step", "preview", "frames"} <= set(heard)
        assert runner.ask("tokens", model=MODEL, prompt="a red circle")["tokens"] == 4
        sizes = {"frames": 25, "height": 64, "width": 64}
        assert runner.ask("memory", model=MODEL, **sizes)["memory_bytes"] > 10**7
        with pytest.raises(RunFailedError, match="frames=8 is not 6k"):
            runner.run("y", MODEL, request | {"frames": 8}, path, lambda kind, data: None)
    finally:
        runner.close()


def test_nano_wears_what_a_job_asks_for(tmp_path: Path) -> None:
    pipe = mochi.load("nano", device="cpu")
    names = ("ink", "night")
    files = [
        make_lora(pipe, tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate(names)
    ]
    loras = tuple(LoraEntry(name, str(file)) for name, file in zip(names, files, strict=True))
    runner = ProcessRunner("cpu", [ModelEntry(MODEL, "nano", {"dtype": "auto"}, loras)])
    request = pipe.request("a red circle", seed=1, frames=7, steps=2)
    path = tmp_path / "out.mp4"

    def made(*worn: list[object]) -> bytes:
        fields = request.to_dict() | ({"loras": worn} if worn else {})
        runner.run("x", MODEL, fields, path, lambda kind, data: None)
        return b"".join(frame.tobytes() for frame in iter_frames(path))

    def expected(*worn: tuple[Path, float]) -> bytes:
        pipe.clear_loras()
        for file, scale in worn:
            pipe.add_lora(file, scale)
        pipe.generate_to(path, request, overwrite=True)
        return b"".join(frame.tobytes() for frame in iter_frames(path))

    try:
        runner.start()
        plain = made()
        assert made(["ink", 0.5]) == expected((files[0], 0.5)) != plain
        assert made(["night", 1.0], ["ink", -1.0]) == expected((files[1], 1.0), (files[0], -1.0))
        assert made() == plain
    finally:
        runner.close()


def test_an_adapter_that_does_not_fit_is_told_at_the_start(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"no tensors")
    entry = ModelEntry(MODEL, "nano", {}, (LoraEntry("ink", str(wrong)),))
    runner = ProcessRunner("cpu", [entry])
    with pytest.raises(RunnerDiedError, match=r"wrong\.safetensors"):
        runner.start()
    assert "wrong.safetensors" in runner.state.reason
    runner.close()
