"""Three ways to convolve, and streams in pieces: one result."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch
from tests.model.golden import relative
from torch import Tensor
from torch.nn import functional as F

from mochi.core.config import DecoderConfig, EncoderConfig
from mochi.core.errors import Cancelled, RequestError
from mochi.memory.trace import peak_bytes
from mochi.model import convolve, decoder, layered
from mochi.model.causal import FrameNorm, ResBlock, lay_out, use_convolutions
from mochi.model.convolve import Method, choose, row_kernels, winograd_rows
from mochi.model.decoder import Decoder
from mochi.model.encoder import Encoder, Posterior
from mochi.model.exchange import FrameStream, WholeVideo

WIDE = DecoderConfig(channels=(64, 128, 32, 32), blocks=(1, 0, 1, 1, 1))
ENCODER = EncoderConfig(channels=(32, 32, 64, 32), blocks=(1, 1, 1, 2, 1))
FAST: list[Method] = ["auto", "direct", "winograd"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_decoder(config: DecoderConfig) -> Decoder:
    torch.manual_seed(0)
    network = Decoder(config).requires_grad_(False).eval()
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.add_(0.3 * draw(*parameter.shape))
    return network


def joined(parts: list[Posterior]) -> Tensor:
    return torch.cat([torch.cat([part.mean, part.logvar], dim=1) for part in parts], dim=2)


@pytest.mark.parametrize("height", [2, 4, 10])
@pytest.mark.parametrize("band_values", [1, 2**22])
def test_winograd_is_a_convolution(
    height: int, band_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolve, "_BAND_VALUES", band_values)
    x = draw(2, 24, 5, height + 2, 7).contiguous(memory_format=torch.channels_last_3d)
    weight, bias = draw(40, 24, 3, 3, 3, seed=1) / 25, draw(40, seed=2)
    expected = F.conv3d(x.double(), weight.double(), bias.double())
    found = winograd_rows(x, weight, bias)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert relative(found, expected) < 1e-6
    assert relative(winograd_rows(x, weight, None), F.conv3d(x, weight)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_of_rows_are_sums_and_leave_the_weight_alone(dtype: torch.dtype) -> None:
    weight = draw(8, 6, 3, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    before = weight.clone()
    outer, plus, minus, last = row_kernels(weight)
    assert torch.equal(weight, before)
    assert torch.equal(outer, weight[:, :, :, 0:1])
    assert torch.equal(last, weight[:, :, :, 2:3])
    assert relative(plus + minus, weight[:, :, :, 0:1] + weight[:, :, :, 2:3]) < 1e-2
    assert relative(plus - minus, weight[:, :, :, 1:2]) < 1e-2


@pytest.mark.parametrize("method", FAST)
@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_every_method_decodes_the_same(method: Method, chunk: int | None) -> None:
    network, latents = random_decoder(WIDE), draw(2, 12, 4, 2, 4)
    use_convolutions(network, "plain")
    expected = network(latents)
    use_convolutions(network, method)
    assert relative(network(latents), expected) < 5e-6
    streamed = torch.cat(list(network.stream(latents, chunk)), dim=2)
    assert relative(streamed, expected) < 5e-6


def test_the_same_with_and_without_gradients() -> None:
    torch.manual_seed(0)
    block = ResBlock(32)
    x, fast = draw(1, 32, 3, 4, 6), ResBlock(32)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    fast.load_state_dict(block.state_dict())
    before = x.clone()
    found = fast(x, WholeVideo())
    assert torch.equal(x, before)
    with torch.enable_grad():
        slow = block(x, WholeVideo())
        slow.square().sum().backward()
    assert relative(found, slow.detach()) < 1e-6
    assert all(parameter.grad is not None for parameter in block.parameters())
    with torch.enable_grad():  # a frozen network passes gradients on to what goes in
        frozen = fast.requires_grad_(False)
        (gradient,) = torch.autograd.grad(
            frozen(x.requires_grad_(), WholeVideo()).square().sum(), x
        )
    assert gradient.abs().sum() > 0


def test_winograd_in_bfloat16_is_little_less_exact() -> None:
    network, latents = random_decoder(WIDE), draw(1, 12, 3, 8, 8)
    network.bfloat16()
    exact = random_decoder(WIDE)
    exact.load_state_dict({k: v.float() for k, v in network.state_dict().items()})
    expected, errors = exact(latents), {}
    for method in ("plain", "winograd"):
        use_convolutions(network, method)
        errors[method] = relative(network(latents), expected)
    assert 1e-4 < errors["winograd"] < 1.2 * errors["plain"] < 5e-2


def test_what_auto_stands_for() -> None:
    wide, narrow = ResBlock(128).stack[2], ResBlock(32).stack[2]
    large, small, odd = torch.empty(1, 128, 2, 32, 32), torch.empty(1, 128, 2, 8, 8), (3, 64, 65)
    assert choose("auto", wide, large) == "winograd"
    assert choose("auto", wide, small) == choose("auto", narrow, large[:, :32]) == "direct"
    assert choose("winograd", narrow, small[:, :32]) == "winograd"
    assert choose("winograd", wide, torch.empty(1, 128, *odd[:1], odd[2], odd[1])) == "direct"
    assert choose("direct", wide, large) == "direct"
    with pytest.raises(RequestError, match=r"convolutions='fast' is unknown; nearest: auto, plain"):
        use_convolutions(ResBlock(32), "fast")  # type: ignore[arg-type]


def test_weights_are_laid_out_once_and_not_while_they_train() -> None:
    block = ResBlock(32)
    with torch.enable_grad():
        lay_out(block)
    weight = block.stack[2].weight
    assert weight.is_contiguous()
    before = weight.detach().clone()
    lay_out(block)
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(weight, before)
    place = weight.data_ptr()
    lay_out(block)
    assert weight.data_ptr() == place


def test_pieces_of_any_size_decode_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network, latents = random_decoder(WIDE), draw(1, 12, 7, 2, 2)
    whole = network(latents)
    counts = []
    for limit in (1, 2**18, 2**30):
        monkeypatch.setattr(decoder, "piece_bytes", lambda device, limit=limit: limit)
        parts = list(network.stream(latents))
        counts.append(len(parts))
        assert relative(torch.cat(parts, dim=2), whole) < 5e-6
    assert counts[0] > counts[1] > counts[-1] == 1


def test_a_stream_does_not_grow_with_the_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "piece_bytes", lambda device: 2**14)
    with torch.device("meta"):
        network = Decoder(WIDE)
        lay_out(network)
        short, long = torch.empty(1, 12, 6, 2, 2), torch.empty(1, 12, 24, 2, 2)

    def streamed(latents: Tensor) -> int:
        return peak_bytes(lambda: deque(network.stream(latents), maxlen=0))

    assert streamed(long) < 1.02 * streamed(short)
    assert streamed(long) < peak_bytes(lambda: network(long)) / 4


def test_frames_wait_where_they_are_told_to() -> None:
    network, latents = random_decoder(WIDE), draw(1, 12, 3, 4, 4)
    expected = torch.cat(list(network.stream(latents, 1)), dim=2)
    elsewhere = torch.cat(list(network.stream(latents, 1, torch.device("cpu"))), dim=2)
    assert torch.equal(elsewhere, expected)
    stream, norm = FrameStream(torch.device("meta")), FrameNorm(32)
    x = draw(1, 32, 3, 2, 2)
    stream.frames_before(norm, x, 2)
    assert stream._frames[norm].is_meta


def test_a_device_that_goes_on_where_another_left() -> None:
    """What a split of a video in time hands in: frames that came from elsewhere."""
    network, latents = random_decoder(WIDE), draw(1, 12, 4, 4, 4)
    whole, first = network(latents), FrameStream()
    parts = [network.decode_chunk(latents[:, :, :2], first)]

    class Continued(FrameStream):
        def __init__(self) -> None:
            super().__init__()
            self.at_start = False
            self._frames = {layer: kept.clone() for layer, kept in first._frames.items()}

    parts.append(network.decode_chunk(latents[:, :, 2:], Continued()))
    assert relative(torch.cat(parts, dim=2), whole) < 5e-6


# ----------------------------------------------------------------------------------------- encoder


@pytest.mark.parametrize("limit", [1, 2**12, 2**15, 2**23])
def test_layer_by_layer_is_the_whole_encode(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, pixels = Encoder(ENCODER).eval(), draw(2, 3, 19, 16, 24).tanh()
    whole = network(pixels)
    monkeypatch.setattr(layered, "piece_bytes", lambda device: limit)
    found = network.layered(pixels)
    assert found.mean.shape == (2, 12, 4, 2, 3)
    assert relative(joined([found]), joined([whole])) < 1e-5
    assert relative(joined(list(network.stream(pixels, 2))), joined([found])) < 1e-5


def test_an_encode_may_keep_its_video_in_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, pixels = Encoder(ENCODER).eval(), draw(1, 3, 13, 16, 16).tanh()
    made = []

    def in_a_file(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        assert device.type == "cpu"
        made.append(tmp_path / str(len(made)))
        size = torch.Size(shape).numel()
        kept = torch.from_file(str(made[-1]), shared=True, size=size, dtype=dtype)
        return kept.view(shape)

    found = network.layered(pixels, in_a_file)
    assert torch.equal(found.mean, network.layered(pixels).mean)
    assert [path.stat().st_size for path in made] == [
        13 * 64 * 32 * 4,
        7 * 16 * 64 * 4,
        3 * 4 * 32 * 4,
    ]


def test_bytes_are_pixels_too() -> None:
    torch.manual_seed(0)
    network = Encoder(ENCODER).eval()
    levels = (255 * draw(1, 3, 7, 16, 16).sigmoid()).to(torch.uint8)
    expected = network.layered(levels.float() / 127.5 - 1)
    assert torch.equal(network.layered(levels).mean, expected.mean)
    with pytest.raises(RequestError, match="frames=8"):
        network.layered(torch.zeros(1, 3, 8, 16, 16, dtype=torch.uint8))


def test_an_encode_stops_between_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    network, left = Encoder(ENCODER).eval(), 5
    monkeypatch.setattr(layered, "piece_bytes", lambda device: 2**12)

    def stop() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        network.layered(draw(1, 3, 13, 16, 16), on_piece=stop)
    assert left == 0


def test_factors_are_the_norm() -> None:
    norm, x = FrameNorm(64), draw(2, 64, 3, 4, 6)
    norm.weight.normal_()
    norm.bias.normal_()
    scale, shift = norm.factors(x)
    assert scale.shape == (2, 64, 3, 1, 1)
    assert relative(x * scale + shift, norm(x)) < 1e-6
    assert norm.bfloat16().factors(x.bfloat16())[0].dtype == torch.float32


# --------------------------------------------------------------------------------------------- gpu


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep_on", [None, torch.device("cpu")])
def test_a_gpu_decodes_as_the_cpu(dtype: torch.dtype, keep_on: torch.device | None) -> None:
    network, latents = random_decoder(WIDE), draw(1, 12, 5, 8, 8)
    expected = network(latents)
    network.to("cuda", dtype)
    torch.backends.cudnn.allow_tf32 = False
    parts = [part.cpu() for part in network.stream(latents.cuda(), 1, keep_on)]
    assert relative(torch.cat(parts, dim=2), expected) < (1e-5 if dtype == torch.float32 else 3e-2)
    one_shot = network(latents.cuda()).cpu()
    assert relative(torch.cat(parts, dim=2), one_shot) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.gpu
def test_a_gpu_encodes_as_the_cpu_and_may_keep_the_video_on_the_host() -> None:
    torch.manual_seed(0)
    network, pixels = Encoder(ENCODER).eval(), draw(1, 3, 13, 16, 16).tanh()
    expected = network(pixels)
    network.cuda()
    torch.backends.cudnn.allow_tf32 = False

    def on_the_host(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")

    for made in (network.layered(pixels), network.layered(pixels, on_the_host)):
        assert relative(made.mean.cpu(), expected.mean) < 1e-4
