"""What AsymmVAE promises beyond the goldens: streams of any chunking, sizes, precision."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tests.model.golden import relative
from torch import Tensor
from torch.nn import functional as F

from mochi.core.config import DecoderConfig, EncoderConfig
from mochi.core.errors import RequestError
from mochi.model.causal import CausalConv3d, FrameNorm, linear_on_channels
from mochi.model.decoder import Decoder, UpBlock
from mochi.model.encoder import Encoder, Posterior
from mochi.model.exchange import FrameStream, WholeVideo

DECODERS = [
    DecoderConfig(channels=(64, 32, 32, 32), blocks=(1, 1, 0, 2, 1)),
    DecoderConfig(channels=(32, 64, 32, 32), blocks=(0, 1, 1, 0, 0)),
    DecoderConfig(channels=(32, 32, 32), blocks=(1, 1, 1, 1), time_expansions=(3, 2)),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", DECODERS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 9])
def test_streamed_decode_is_the_whole_decode(config: DecoderConfig, chunk: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder(config).eval()
    latents = draw(2, 12, 5, 2, 4)
    whole = decoder(latents)
    parts = list(decoder.stream(latents, chunk))
    step = whole.shape[2] // 5 + 1
    assert parts[0].shape[2] == (min(chunk, 5) - 1) * step + 1
    assert relative(torch.cat(parts, dim=2), whole) < 1e-5


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_streamed_encode_is_the_whole_encode(chunk: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(channels=(32, 32, 64, 32), blocks=(0, 1, 1, 2, 1))).eval()
    pixels = draw(2, 3, 19, 16, 24).tanh()
    whole, parts = encoder(pixels), list(encoder.stream(pixels, chunk))
    assert whole.mean.shape == (2, 12, 4, 2, 3)
    assert relative(torch.cat([part.mean for part in parts], dim=2), whole.mean) < 1e-5
    assert relative(torch.cat([part.logvar for part in parts], dim=2), whole.logvar) < 1e-5


def test_later_frames_do_not_change_earlier_ones() -> None:
    torch.manual_seed(0)
    decoder = Decoder(DECODERS[0]).eval()
    latents = draw(1, 12, 4, 2, 2)
    other = torch.cat([latents[:, :, :2], draw(1, 12, 2, 2, 2, seed=1)], dim=2)
    assert relative(decoder(other)[:, :, :7], decoder(latents)[:, :, :7]) < 1e-6


def test_causal_convolution_by_its_definition() -> None:
    conv, x = CausalConv3d(32), draw(1, 32, 4, 3, 3)
    padded = F.pad(x, (1, 1, 1, 1, 2, 0), mode="replicate")
    expected = F.conv3d(padded, conv.weight, conv.bias)
    assert relative(conv(x, WholeVideo()), expected) < 1e-6


def test_norm_sees_one_frame_at_a_time() -> None:
    norm, x = FrameNorm(64), draw(2, 64, 3, 4, 4)
    norm.weight.normal_()
    norm.bias.normal_()
    for frame in range(3):
        expected = F.group_norm(x[:, :, frame], 32, norm.weight, norm.bias, eps=1e-5)
        assert relative(norm(x)[:, :, frame], expected) < 1e-6


def test_channels_become_time_and_space_by_index() -> None:
    block, x = UpBlock(5, 2, blocks=0, time_step=3), draw(1, 5, 2, 2, 2)
    out, packed = block.expand(x, WholeVideo()), linear_on_channels(block.proj, x)
    assert out.shape == (1, 2, 6 - 2, 4, 4)  # the first latent frame stands for one frame
    for channel, t, h, w in product(range(2), range(2, 6), range(4), range(4)):
        place = ((channel * 3 + t % 3) * 2 + h % 2) * 2 + w % 2
        expected = packed[0, place, t // 3, h // 2, w // 2]
        assert out[0, channel, t - 2, h, w] == pytest.approx(float(expected), abs=1e-6)


def test_bfloat16_decode_stays_near() -> None:
    torch.manual_seed(0)
    decoder = Decoder(DECODERS[0]).eval()
    latents = draw(1, 12, 3, 2, 2)
    exact = decoder(latents)
    rounded = decoder.bfloat16()(latents)
    assert rounded.dtype == torch.float32
    assert 1e-4 < relative(rounded, exact) < 3e-2


def test_gradients_flow_through_both() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(channels=(32, 32, 32, 32), blocks=(1, 1, 1, 1, 1)))
    decoder = Decoder(DecoderConfig(channels=(32, 32, 32, 32), blocks=(1, 1, 1, 1, 1)))
    with torch.enable_grad():
        posterior = encoder(draw(1, 3, 7, 16, 16).tanh())
        latent = posterior.sample(torch.Generator().manual_seed(0))
        decoder(latent.tensor).square().mean().backward()
    for network in (encoder, decoder):
        assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_a_posterior_draws_the_same_twice() -> None:
    posterior = Posterior(torch.zeros(1, 12, 1, 64, 64), torch.full((1, 12, 1, 64, 64), -2.0))
    first, second = (posterior.sample(torch.Generator().manual_seed(3)).tensor for _ in range(2))
    assert torch.equal(first, second)
    assert float(first.std()) == pytest.approx(0.3679, rel=0.02)
    assert torch.equal(posterior.mode().tensor, posterior.mean)


def test_a_stream_keeps_two_frames_for_each_convolution() -> None:
    stream, conv = FrameStream(), CausalConv3d(32)
    x = draw(1, 32, 1, 2, 2)
    assert torch.equal(stream.frames_before(conv, x, 2), x.expand(-1, -1, 2, -1, -1))
    stream.advance()
    y = draw(1, 32, 1, 2, 2, seed=1)
    assert torch.equal(stream.frames_before(conv, y, 2), x.expand(-1, -1, 2, -1, -1))
    assert torch.equal(stream.frames_before(conv, y, 2), torch.cat([x, y], dim=2))


def test_shapes_that_do_not_fit() -> None:
    decoder, encoder = Decoder(DECODERS[0]), Encoder(EncoderConfig((32,) * 4, (0,) * 5))
    for latents in (
        torch.zeros(1, 11, 1, 2, 2),
        torch.zeros(12, 1, 2, 2),
        torch.zeros(1, 12, 0, 2, 2),
    ):
        with pytest.raises(RequestError, match="latents"):
            decoder(latents)
    with pytest.raises(RequestError, match="chunk"):
        list(decoder.stream(torch.zeros(1, 12, 1, 2, 2), 0))
    with pytest.raises(RequestError, match=r"frames=8 is not 6k\+1; nearest: 7 and 13"):
        encoder(torch.zeros(1, 3, 8, 16, 16))
    with pytest.raises(RequestError, match="height=12"):
        encoder(torch.zeros(1, 3, 7, 12, 16))
    with pytest.raises(RequestError, match="pixels"):
        encoder(torch.zeros(1, 4, 7, 16, 16))
