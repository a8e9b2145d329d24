"""Checkpoints small enough to write in every test, with unlike sizes everywhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder

State = dict[str, Tensor]

DIT = DiTConfig(
    depth=3, heads=2, head_dim=16, visual_width=32, text_width=24, text_features=40, text_tokens=256
)
DECODER = DecoderConfig(channels=(96, 64, 64, 32), blocks=(1, 0, 1, 2, 0))
ENCODER = EncoderConfig(channels=(32, 64, 64, 96), blocks=(0, 1, 2, 0, 1))


def randomised(network: nn.Module) -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.1
        for name, tensor in network.state_dict().items()
    }


@pytest.fixture(scope="session")
def states() -> dict[str, State]:
    """Part to its state, random."""
    with torch.device("meta"):
        networks = {"dit": AsymmDiT(DIT), "decoder": Decoder(DECODER), "encoder": Encoder(ENCODER)}
    return {part: randomised(network) for part, network in networks.items()}


@pytest.fixture(scope="session")
def original(states: dict[str, State], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three original files; not to be changed."""
    folder = tmp_path_factory.mktemp("original")
    for part, state in states.items():
        save_file(state, folder / f"{part}.safetensors")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Save a state as a file of its own."""

    def save(state: State, name: str = "weights.safetensors") -> Path:
        save_file({name: t.contiguous() for name, t in state.items()}, tmp_path / name)
        return tmp_path / name

    return save
