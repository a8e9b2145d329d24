"""What is sent is what the formulae say; tokens in parts give what they give in one piece."""

from math import prod
from typing import Any

import pytest
import torch
from tests.parallel.crew import Crew
from tests.parallel.test_frames import DECODER, ENCODER, decoder, draw, encoder
from tests.parallel.test_tokens import CONFIG, SCHEMES, _inputs, _network

from mochi.core.config import MOCHI_1
from mochi.core.speed import Passes
from mochi.parallel import frames
from mochi.parallel.encoding import encode
from mochi.parallel.formulae import Walk, decode_bytes, encode_bytes, step_bytes
from mochi.parallel.mesh import Mesh
from mochi.parallel.predict import guided_walks
from mochi.parallel.scheme import Scheme
from mochi.parallel.world import World

Variant = tuple[Passes, torch.dtype, bool]

VARIANTS: list[Variant] = [
    ("apart", torch.float32, True),
    ("apart", torch.float32, False),
    ("together", torch.bfloat16, True),
]
"""How the passes run, in what, and whether parts travel while others are computed."""


def _steps(world: World, scheme: str, variants: list[Variant]) -> Any:
    mesh, found = Mesh.join(Scheme.parse(scheme), world), []
    for passes, dtype, overlap in variants:
        dit = _network(dtype)
        dit.passes = passes
        network = mesh.install(dit)
        network.exchange.overlap = overlap
        given, empty = _inputs(3, (17,)), _inputs(3, (0,))
        with torch.no_grad():
            contexts = [
                network.prepare_text(each["text_BLG"].to(dtype), each["mask_BL"])
                for each in (given, empty)
            ]
            mesh.traffic.reset()
            velocities = network.velocities(given["z_BCTHW"], 0.5, contexts)
        found.append(([each.float().numpy() for each in velocities], dict(mesh.traffic.sent)))
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_sends_what_the_formula_says_and_parts_change_nothing(
    crew: Crew, scheme: str
) -> None:
    sizes, latent = Scheme.parse(scheme), (1, 12, 3, 6, 10)
    for rank, found in enumerate(crew.run(sizes.devices, _steps, scheme, VARIANTS)):
        for (passes, dtype, _), (_, sent) in zip(VARIANTS, found, strict=True):
            walks = guided_walks(sizes, (17, 0), passes == "together")[rank // sizes.half]
            assert sent == step_bytes(CONFIG, sizes, rank, latent, walks, dtype.itemsize)
        (parts, _), (whole, _), _ = found
        for ours, theirs in zip(parts, whole, strict=True):
            assert abs(ours - theirs).max() < 1e-5


def _vae(world: World, cases: list[tuple[int, int]]) -> Any:
    group, found = Mesh.join(Scheme(ring=world.size), world).everyone, []
    for latents, most in cases:
        with torch.no_grad():
            list(frames.decode(decoder(), draw(1, 12, latents, 2, 3), group, most))
            decoded = dict(group.traffic.sent)
            group.traffic.reset()
            encode(encoder(), draw(1, 3, 6 * latents - 5, 8, 24), group)
        found.append((decoded, dict(group.traffic.sent)))
        group.traffic.reset()
    return found


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_vae_sends_what_the_formulae_say(crew: Crew, ranks: int) -> None:
    cases = [(1, 1), (5, 1), (9, 2)]
    for place, found in enumerate(crew.run(ranks, _vae, cases)):
        for (latents, most), (decoded, encoded) in zip(cases, found, strict=True):
            shape = (1, 12, latents, 2, 3)
            assert decoded == decode_bytes(DECODER, shape, ranks, place, most, 4, 4)
            pixels = (1, 3, 6 * latents - 5, 8, 24)
            assert encoded == encode_bytes(ENCODER, pixels, ranks, place, 4)


@pytest.mark.parametrize(("ranks", "gigabytes"), [(2, 13.1), (4, 9.8), (8, 5.7)])
def test_ulysses_sends_what_is_known_of_it(ranks: int, gigabytes: float) -> None:
    """PERFORMANCE 4, per device and forward at 163 frames."""
    scheme, latent = Scheme(ulysses=ranks), (1, 12, 28, 60, 106)
    sent = step_bytes(MOCHI_1.dit, scheme, 0, latent, [Walk(1, 0, 0)], 2)
    assert sent["ulysses"] / 1e9 == pytest.approx(gigabytes, abs=0.06)
    assert prod(latent[2:]) // 4 == 44_520


@pytest.mark.parametrize(("ranks", "gigabytes"), [(2, 13.1), (4, 19.7), (8, 23.0)])
def test_a_ring_sends_what_is_known_of_it(ranks: int, gigabytes: float) -> None:
    """PERFORMANCE 4."""
    sent = step_bytes(MOCHI_1.dit, Scheme(ring=ranks), 0, (1, 12, 28, 60, 106), [Walk(1, 0, 0)], 2)
    assert sent["ring"] / 1e9 == pytest.approx(gigabytes, abs=0.06)
