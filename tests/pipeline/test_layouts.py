"""Whatever layout a model comes in, it makes the same video; quantised, that of its values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.weights.marked import Marked, State, fp8_scaled, write_gguf

import mochi
from mochi.core.errors import RequestError, WeightsError
from mochi.core.events import Event, Notice
from mochi.pipeline.devices import pick_dtype
from mochi.weights.layouts import DIFFUSERS_DECODER, DIFFUSERS_DIT, DIFFUSERS_ENCODER

PROMPT = "a red circle"
SETTINGS: dict[str, Any] = {
    "frames": 7, "height": 32, "width": 32, "steps": 2, "seed": 3, "guidance": 3.0,
    "solver": "euler", "threshold": 0.1, "linear_steps": 1, "fps": 24, "negative_prompt": "",
}  # fmt: skip
PARTS = {"dit": "dit", "decoder": "decoder", "encoder": "encoder", "t5": "text_encoder/model"}
COMFY = {
    "dit": "model.diffusion_model.",
    "decoder": "vae.decoder.",
    "encoder": "vae.encoder.",
    "t5": "text_encoders.t5xxl.transformer.",
}
States = dict[str, State]


@pytest.fixture(scope="module")
def states(tiny_model: Path) -> States:
    return {part: load_file(tiny_model / f"{name}.safetensors") for part, name in PARTS.items()}


def video(**model: Any) -> np.ndarray:
    return mochi.load(device="cpu", dtype="float32", **model).generate(PROMPT, **SETTINGS).frames


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> np.ndarray:
    return video(model=tiny_model)


def prefixed(states: States) -> State:
    return {
        COMFY[part] + name: tensor.contiguous()
        for part, state in states.items()
        for name, tensor in state.items()
    }


def all_in_one(states: States, folder: Path) -> dict[str, Any]:
    save_file(prefixed(states), folder / "model")
    return {"model": folder / "model"}


def checkpoint(states: States, folder: Path) -> dict[str, Any]:
    torch.save({"state_dict": prefixed(states)}, folder / "model.ckpt")
    return {"model": folder / "model.ckpt"}


def named_parts(states: States, folder: Path) -> dict[str, Any]:
    vae = {f"{p}.{n}": t for p in ("decoder", "encoder") for n, t in states[p].items()}
    save_file(vae, folder / "a vae")
    save_file(states["t5"], folder / "t5")
    write_gguf(folder / "dit.gguf", states["dit"], lambda *_: "f32")
    return {
        "dit": folder / "dit.gguf",
        "vae": str(folder / "a vae"),
        "text_encoder": folder / "t5",
    }


def diffusers(states: States, folder: Path) -> dict[str, Any]:
    vae: State = {}
    for part, table in (("decoder", DIFFUSERS_DECODER), ("encoder", DIFFUSERS_ENCODER)):
        names = table.from_ours(states[part])
        for name, tensor in states[part].items():
            vae |= names.to_theirs(name, tensor)
    names = DIFFUSERS_DIT.from_ours(states["dit"])
    dit = {k: v for n, t in states["dit"].items() for k, v in names.to_theirs(n, t).items()}
    for component, state in (("transformer", dit), ("vae", vae), ("text_encoder", states["t5"])):
        (folder / component).mkdir()
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / component / f"{stem}.safetensors")
    return {"model": folder}


LAYOUTS: dict[str, Callable[[States, Path], dict[str, Any]]] = {
    "all-in-one": all_in_one,
    "PyTorch": checkpoint,
    "parts, one by one": named_parts,
    "diffusers": diffusers,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_makes_the_same_video(
    layout: str, states: States, expected: np.ndarray, tiny_model: Path, tmp_path: Path
) -> None:
    model = LAYOUTS[layout](states, tmp_path)
    found = video(tokenizer=tiny_model / "tokenizer", **model)
    # Weights at another alignment in memory: the last bit of a product may round otherwise.
    off = np.abs(found.astype(int) - expected)
    assert off.max() <= 1
    assert np.count_nonzero(off) <= 0.001 * off.size


def small(states: States, folder: Path) -> State:
    """Transformer and text encoder as scaled float8, all in one; returns what they mean."""
    tensors, meaning = {}, {}
    for part, state in states.items():
        if part in ("dit", "t5"):
            marked = fp8_scaled(state, "old", COMFY[part])
            tensors |= marked.tensors
            meaning |= {COMFY[part] + name: value for name, value in marked.meaning.items()}
        else:
            tensors |= prefixed({part: state})
            meaning |= prefixed({part: state})
    Marked(tensors, {}).save(folder / "small")
    return meaning


def test_a_quantised_model_makes_the_video_of_its_values(
    states: States, expected: np.ndarray, tiny_model: Path, tmp_path: Path
) -> None:
    meaning = small(states, tmp_path)
    save_file({name: tensor.contiguous() for name, tensor in meaning.items()}, tmp_path / "plain")
    options = {"tokenizer": tiny_model / "tokenizer"}
    wanted = video(model=tmp_path / "plain", **options)
    assert not np.array_equal(wanted, expected)
    assert np.array_equal(video(model=tmp_path / "small", **options), wanted)
    assert np.array_equal(video(model=tmp_path / "small", dequantize=True, **options), wanted)


def test_what_it_is_is_told_in_one_line(states: States, tiny_model: Path, tmp_path: Path) -> None:
    small(states, tmp_path)
    heard: list[Event] = []
    pipe = mochi.load(
        tmp_path / "small",
        tokenizer=tiny_model / "tokenizer",
        device="cpu",
        on_event=heard.append,
    )
    (notice,) = [event.message for event in heard if isinstance(event, Notice)]
    assert notice.endswith(
        "dit, decoder, encoder, t5 in small (ComfyUI all-in-one, fp8_scaled (old marking) and "
        "float32)"
    )
    assert pipe.parts.precision.networks == torch.float32  # not float8, and too small for bfloat16
    plain = pipe.parts.blueprint("dit").weights
    large = mochi.load(
        tmp_path / "small", tokenizer=tiny_model / "tokenizer", device="cpu", dequantize=True
    )
    assert plain != large.parts.blueprint("dit").weights


def test_a_part_of_another_size_is_refused(
    states: States, tiny_model: Path, tmp_path: Path
) -> None:
    other = {**states["t5"], "shared.weight": torch.zeros(7, 3)}
    save_file(other, tmp_path / "t5")
    pipe = mochi.load(tiny_model, text_encoder=tmp_path / "t5", device="cpu")
    with pytest.raises(WeightsError, match="t5"):
        pipe.generate(PROMPT, **SETTINGS)
    with pytest.raises(RequestError, match="vae"):
        mochi.load(tiny_model, vae="nowhere")


@pytest.mark.parametrize(
    ("device", "size", "kind", "expected"),
    [
        ("cpu", 1, "float32", None),
        ("cpu", 2**34, "bfloat16", None),
        ("cuda", 2**34, "float32", torch.bfloat16),
        ("cuda", 1, "bfloat16", None),
        ("cpu", 1, "float16", torch.float32),
        ("cpu", 2**34, "float16", torch.bfloat16),
        ("cuda", 1, "q4_0", torch.float32),
        ("cpu", 2**34, "fp8_scaled", torch.bfloat16),
        ("cuda", 2**34, "float8_e4m3fn", torch.bfloat16),
    ],
)
def test_auto_picks_what_a_network_can_compute_in(
    device: str,
    size: int,
    kind: str,
    expected: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for able in (True, False):
        monkeypatch.setattr("mochi.pipeline.devices.multiplies_in_bfloat16", lambda able=able: able)
        found = pick_dtype("dtype", "auto", torch.device(device), size, kind)
        assert found == (expected if able or device == "cuda" else torch.float32)
        assert pick_dtype("dtype", "bfloat16", torch.device(device), size, kind) == torch.bfloat16
