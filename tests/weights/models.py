"""Whole models of any small size, written as the original files."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig, T5Size
from mochi.weights.networks import expected_shapes

State = dict[str, Tensor]

# diffusers' own rules: MLPs of 4 * width * 2 // 3, and one list of block counts for the VAE.
DIT = DiTConfig(
    depth=3,
    heads=2,
    head_dim=16,
    visual_width=32,
    text_width=24,
    text_features=40,
    visual_ffn=85,
    text_ffn=64,
)
DECODER = DecoderConfig(channels=(96, 64, 64, 32), blocks=(1, 2, 1, 0, 1))
ENCODER = EncoderConfig(channels=(32, 64, 64, 96), blocks=(1, 0, 1, 2, 1))
TEXT = T5Size(vocabulary=50, width=40, feed_forward=64, depth=2, heads=2, head_dim=8)


def random_state(part: str, config: object, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in expected_shapes(part, config).items():  # type: ignore[arg-type]
        spread = 0.2 if len(shape) == 1 else (1 + torch.Size(shape[1:]).numel()) ** -0.5
        state[name] = torch.randn(shape, generator=generator) * spread
    return state


def random_model(
    dit: DiTConfig = DIT,
    decoder: DecoderConfig = DECODER,
    encoder: EncoderConfig = ENCODER,
    text: T5Size = TEXT,
) -> dict[str, State]:
    """Part to its state, float32."""
    sizes = {"dit": dit, "decoder": decoder, "encoder": encoder, "t5": text}
    return {part: random_state(part, size, seed) for seed, (part, size) in enumerate(sizes.items())}


def as_dtype(states: dict[str, State], dtype: torch.dtype) -> dict[str, State]:
    """The same in another dtype, but for `pos_frequencies`."""
    return {
        part: {n: t if n == "pos_frequencies" else t.to(dtype) for n, t in state.items()}
        for part, state in states.items()
    }


def write_original(folder: Path, states: dict[str, State]) -> Path:
    """The original files, with T5, a tokenizer of sorts, and a card."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, state in states.items():
        name = "text_encoder/model" if part == "t5" else part
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(state, folder / f"{name}.safetensors")
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (folder / "mochi.json").write_text(json.dumps({"name": "tiny"}))
    return folder
