"""The VAE split in time gives the frames, the latents and the gradients of one process."""

from typing import Any

import pytest
import torch
from tests.parallel.crew import Crew
from torch import Tensor

from mochi.core.config import DecoderConfig, EncoderConfig
from mochi.core.errors import RequestError
from mochi.model.decoder import Decoder
from mochi.model.encoder import Encoder
from mochi.parallel import frames
from mochi.parallel.encoding import encode
from mochi.parallel.mesh import Mesh
from mochi.parallel.scheme import Scheme
from mochi.parallel.world import World

DECODER = DecoderConfig(channels=(64, 32, 32, 32), blocks=(1, 1, 1, 0, 1))
ENCODER = EncoderConfig(channels=(32, 32, 64, 32), blocks=(1, 1, 0, 1, 1))


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def decoder() -> Decoder:
    torch.manual_seed(1)
    return Decoder(DECODER)


def encoder() -> Encoder:
    torch.manual_seed(1)
    return Encoder(ENCODER)


def _everyone(world: World) -> Any:
    return Mesh.join(Scheme(ring=world.size), world).everyone


def _decoded(world: World, cases: list[tuple[int, int | None]], dtype: torch.dtype) -> Any:
    group, found = _everyone(world), []
    for latents, most in cases:
        with torch.no_grad():
            given = draw(1, 12, latents, 2, 3)
            parts = frames.decode(decoder().to(dtype), given, group, most)
            found.append([part.numpy() for part in parts])
    return found


def joined(parts: list[Any]) -> Tensor:
    return torch.cat([torch.from_numpy(part) for part in parts], dim=2)


CASES: list[tuple[int, int | None]] = [(1, None), (5, None), (5, 1), (9, 2)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
def test_decoded_frames_are_those_of_one_process(crew: Crew, ranks: int) -> None:
    first, *others = crew.run(ranks, _decoded, CASES, torch.float32)
    assert not any(parts for found in others for parts in found)
    for (latents, most), parts in zip(CASES, first, strict=True):
        with torch.no_grad():
            alone = decoder()(draw(1, 12, latents, 2, 3))
        assert (joined(parts) - alone).abs().max() < 1e-5
        plan = frames.rounds(latents, ranks, most or latents)
        assert [part.shape[2] for part in parts] == [t.frames(6) for turns in plan for t in turns]


def test_decoding_in_bfloat16_is_that_of_one_process(crew: Crew) -> None:
    with torch.no_grad():
        alone = decoder().bfloat16()(draw(1, 12, 5, 2, 3))
    (parts,), *_ = crew.run(3, _decoded, [(5, 1)], torch.bfloat16)
    assert (joined(parts) - alone).abs().max() <= 0.02 * alone.abs().max()


def _bytes_on_the_way(world: World) -> Any:
    calls: list[int] = []
    parts = frames.decode(
        decoder(),
        draw(1, 12, 4, 2, 4),
        _everyone(world),
        1,
        finish=lambda pixels: (pixels * 9).round().to(torch.int8),
        on_round=lambda: calls.append(1),
    )
    with torch.no_grad():
        return [part.numpy() for part in parts], len(calls)


def test_pixels_are_finished_before_they_travel(crew: Crew) -> None:
    (parts, calls), (_, others) = crew.run(2, _bytes_on_the_way)
    with torch.no_grad():
        alone = (decoder()(draw(1, 12, 4, 2, 4)) * 9).round().to(torch.int8)
    assert torch.cat([torch.from_numpy(part) for part in parts], dim=2).dtype == torch.int8
    assert (joined(parts) - alone).abs().max() <= 1
    assert calls == others == 2


def _decoder_gradients(world: World, latents: int) -> Any:
    network, given = decoder().double(), draw(1, 12, latents, 2, 2).double().requires_grad_()
    pixels = frames.decode_share(network, given, _everyone(world))
    if pixels is not None:
        (pixels**2).sum().backward()
    return {name: grad.numpy() for name, grad in _gradients(network, given).items()}


def _gradients(network: torch.nn.Module, given: Tensor) -> dict[str, Tensor]:
    named = {**dict(network.named_parameters()), "given": given}
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named.items()}


@pytest.mark.parametrize(("ranks", "latents"), [(2, 5), (4, 3)])
def test_a_decoders_gradients_add_up(crew: Crew, ranks: int, latents: int) -> None:
    network, given = decoder().double(), draw(1, 12, latents, 2, 2).double().requires_grad_()
    (network(given) ** 2).sum().backward()
    _add_up(_gradients(network, given), crew.run(ranks, _decoder_gradients, latents))


def _add_up(alone: dict[str, Tensor], found: list[Any]) -> None:
    largest = max(float(grad.abs().max()) for grad in alone.values())
    for name, expected in alone.items():
        total = sum(torch.from_numpy(grads[name]) for grads in found)
        assert (total - expected).abs().max() < 1e-6 * largest, name


def pixels(latents: int) -> Tensor:
    return draw(1, 3, 6 * latents - 5, 16, 24).tanh()


def _encoded(world: World, counts: list[int]) -> Any:
    group = _everyone(world)
    with torch.no_grad():
        found = [encode(encoder(), pixels(latents), group) for latents in counts]
    return [(each.mean.numpy(), each.logvar.numpy()) for each in found]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
def test_the_posterior_is_that_of_one_process(crew: Crew, ranks: int) -> None:
    counts = [1, 4, 7]
    for found in crew.run(ranks, _encoded, counts):
        for latents, (mean, logvar) in zip(counts, found, strict=True):
            with torch.no_grad():
                alone = encoder()(pixels(latents))
            assert (torch.from_numpy(mean) - alone.mean).abs().max() < 1e-5
            assert (torch.from_numpy(logvar) - alone.logvar).abs().max() < 1e-5


def _encoder_gradients(world: World, latents: int) -> Any:
    network, given = encoder().double(), pixels(latents).double().requires_grad_()
    _posterior_loss(encode(network, given, _everyone(world))).backward()
    return {name: grad.numpy() for name, grad in _gradients(network, given).items()}


def _posterior_loss(posterior: Any) -> Tensor:
    return (posterior.mean**2).sum() + posterior.logvar.exp().sum()


@pytest.mark.parametrize(("ranks", "latents"), [(2, 3), (4, 2)])
def test_an_encoders_gradients_add_up(crew: Crew, ranks: int, latents: int) -> None:
    network, given = encoder().double(), pixels(latents).double().requires_grad_()
    _posterior_loss(network(given)).backward()
    _add_up(_gradients(network, given), crew.run(ranks, _encoder_gradients, latents))


def _bad_shapes(world: World) -> str:
    group = _everyone(world)
    said = ""
    for call in (
        lambda: frames.decode(decoder(), draw(1, 11, 2, 2, 2), group),
        lambda: encode(encoder(), draw(1, 3, 6, 16, 16), group),
    ):
        with pytest.raises(RequestError) as error:
            call()
        said += str(error.value)
    return said


def test_wrong_shapes_are_refused_before_anything_travels(crew: Crew) -> None:
    for said in crew.run(2, _bad_shapes):
        assert "latents" in said
        assert "6k+1" in said
