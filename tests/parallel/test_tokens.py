"""Every scheme gives the numbers, and the gradients, of one process."""

import copy
from typing import Any

import pytest
import torch
from tests.parallel.crew import Crew

from mochi.core.config import DiTConfig
from mochi.model.dit import AsymmDiT
from mochi.parallel.mesh import Mesh
from mochi.parallel.scheme import Scheme
from mochi.parallel.world import World
from mochi.sampling.loop import sample

CONFIG = DiTConfig(
    depth=3, heads=5, visual_width=40, text_width=24, text_features=16, text_tokens=256, head_dim=8
)
SCHEMES = [
    "ulysses=2",
    "ring=2",
    "guidance=2",
    "ulysses=3",
    "ring=3",
    "ulysses=2,ring=2",
    "guidance=2,ulysses=2",
    "guidance=2,ring=2",
    "ulysses=4",
    "guidance=2,ulysses=3",
    "ulysses=2,ring=3",
    "ulysses=3,ring=2",
    "ring=6",
]


def _network(dtype: torch.dtype = torch.float32) -> AsymmDiT:
    torch.manual_seed(1)
    dit = AsymmDiT(CONFIG)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return dit.to(dtype)


def _inputs(frames: int, counts: tuple[int, ...]) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(2)
    rows = len(counts)
    mask = torch.zeros(rows, 256, dtype=torch.bool)
    for row, count in enumerate(counts):
        mask[row, :count] = True
    return {
        "z_BCTHW": torch.randn(rows, 12, frames, 6, 10, generator=draw),
        "sigma_B": torch.linspace(0.2, 0.9, rows),
        "text_BLG": torch.randn(rows, 256, 16, generator=draw),
        "mask_BL": mask,
    }


def _velocity(world: World, scheme: str, frames: int, counts: tuple[int, ...], dtype: Any) -> Any:
    dit = _network(dtype)
    mesh = Mesh.join(Scheme.parse(scheme), world)
    mesh.install(dit)
    with torch.no_grad():
        out = dit(**_inputs(frames, counts))
    return out.numpy(), mesh.traffic.sent


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if "guidance" not in s])
@pytest.mark.parametrize("counts", [(0,), (1,), (17,), (256,), (3, 0, 17)])
def test_the_velocity_is_that_of_one_process(crew: Crew, scheme: str, counts: Any) -> None:
    frames = 3  # 45 tokens: no number of ranks here but 3 divides them
    with torch.no_grad():
        alone = _network()(**_inputs(frames, counts))
    found = crew.run(Scheme.parse(scheme).devices, _velocity, scheme, frames, counts, torch.float32)
    for out, _ in found:
        assert (alone - torch.from_numpy(out)).abs().max() < 1e-5


def _samples(world: World, scheme: str) -> Any:
    mesh = Mesh.join(Scheme.parse(scheme), world)
    return _sampled(mesh.install(_network())).numpy()


def _sampled(dit: Any) -> torch.Tensor:
    given = _inputs(2, (17,))
    return sample(
        dit,
        given["z_BCTHW"],
        given["text_BLG"],
        given["mask_BL"],
        None,
        None,
        [1.0, 0.9, 0.6, 0.0],
        4.0,
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_guided_sampling_is_that_of_one_process(crew: Crew, scheme: str) -> None:
    alone = _sampled(_network())
    for out in crew.run(Scheme.parse(scheme).devices, _samples, scheme):
        assert (alone - torch.from_numpy(out)).abs().max() < 1e-5


def _gradients(world: World, scheme: str) -> Any:
    dit = _network(torch.float64)
    mesh = Mesh.join(Scheme.parse(scheme), world)
    mesh.install(dit)
    return {name: grad.numpy() for name, grad in _loss_gradients(dit).items()}


def _loss_gradients(dit: AsymmDiT) -> dict[str, torch.Tensor]:
    dit = copy.copy(dit)
    out = dit(**_inputs(3, (3, 0, 17)))
    target = torch.linspace(-1, 1, out.numel()).view_as(out)
    ((out - target) ** 2).mean().backward()
    return {
        name: p.grad if p.grad is not None else torch.zeros_like(p)
        for name, p in dit.named_parameters()
    }


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if "guidance" not in s])
def test_gradients_add_up_to_those_of_one_process(crew: Crew, scheme: str) -> None:
    alone = _loss_gradients(_network(torch.float64))
    found = crew.run(Scheme.parse(scheme).devices, _gradients, scheme)
    largest = max(float(grad.abs().max()) for grad in alone.values())
    for name, expected in alone.items():
        total = sum(torch.from_numpy(grads[name]) for grads in found)
        assert (total - expected).abs().max() < 1e-6 * largest, name
