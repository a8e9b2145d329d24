"""Estimates: counted on the meta device, checked against the same work on real tensors."""

import math
from dataclasses import replace

import pytest
import torch

from mochi.core.config import MOCHI_1, DecoderConfig, DiTConfig, EncoderConfig, T5Size
from mochi.core.sizes import VideoSize
from mochi.memory.bounds import decode_bound, denoise_bound
from mochi.memory.estimate import (
    decode_working,
    denoise_working,
    encode_working,
    table_bytes,
    text_working,
)
from mochi.memory.trace import LiveBytes, peak_bytes
from mochi.model.causal import lay_out
from mochi.model.context import TextContext
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.model.encoder import Encoder
from mochi.model.layered import kept_values
from mochi.text.t5 import build_t5

TINY_DIT = DiTConfig(
    depth=3, heads=2, head_dim=64, visual_width=128, text_width=64, text_features=64
)
TINY_DECODER = DecoderConfig(channels=(64, 32, 32, 32), blocks=(1, 1, 1, 1, 1))
TINY_ENCODER = EncoderConfig(channels=(32, 32, 32, 64), blocks=(1, 1, 1, 1, 1))
SIZE = VideoSize(25, 64, 96)


def test_a_peak_counts_what_lives_together_and_not_what_came_before() -> None:
    outside = torch.ones(1000)

    def work() -> None:
        a = outside + 1  # 4000 bytes
        b = a + 1  # 8000
        del a
        c = b + 1  # 8000
        c.add_(1).view(10, 100)  # in place, and a view: nothing new
        del b
        torch.cat([c, c, c])  # 4000 + 12000

    assert peak_bytes(work) == 16_000


def test_a_storage_is_counted_once_whoever_looks_at_it() -> None:
    with LiveBytes() as count:
        x = torch.zeros(8)
        views = [x[1:], x.view(2, 4), x.T if x.ndim > 1 else x]
        del x
    assert count.peak == 32
    assert len(views) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_of_decoding_is_what_decoding_holds(dtype: torch.dtype) -> None:
    decoder = Decoder(TINY_DECODER).to(dtype)
    z = torch.zeros(SIZE.latent.shape())

    def work() -> None:
        for _ in decoder.stream(z):
            pass

    real = peak_bytes(work)
    estimate = decode_working(TINY_DECODER, dtype, SIZE)
    assert real == pytest.approx(estimate, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_of_denoising_is_what_a_forward_pass_holds(dtype: torch.dtype) -> None:
    dit = AsymmDiT(TINY_DIT).to(dtype)
    dit.attention = lambda q, k, v: torch.empty_like(q)  # the CPU's own workspace is not ours
    contexts = [
        TextContext(
            torch.zeros(1, tokens, 64, dtype=dtype), (tokens,), torch.zeros(1, 128, dtype=dtype)
        )
        for tokens in (256, 0)
    ]
    z = torch.zeros(SIZE.latent.shape())
    with torch.no_grad():
        tables = dit.prepare_steps([1.0, 0.5], contexts)
    real = peak_bytes(lambda: dit.velocities(z, 1.0, contexts, tables))
    estimate = denoise_working(TINY_DIT, dtype, SIZE, (256, 0))
    assert estimate - 4 * z.nbytes == pytest.approx(real, rel=0.1)
    assert table_bytes(TINY_DIT, dtype, 2, (256, 0)) == tables.nbytes


@pytest.mark.parametrize("tokens", [20, 200])
def test_the_estimate_of_text_is_about_what_t5_holds(tokens: int) -> None:
    size = T5Size(vocabulary=64, width=128, feed_forward=320, depth=2, heads=4, head_dim=32)
    model = build_t5(size).eval()
    real = peak_bytes(lambda: model(torch.zeros(1, tokens, dtype=torch.long)))
    assert text_working(size, torch.float32, tokens) == pytest.approx(real, rel=0.35)


def test_length_costs_the_transformer_but_not_the_decoder() -> None:
    longer = replace(SIZE, frames=8 * (SIZE.frames - 1) + 1)
    dit = [denoise_working(TINY_DIT, torch.float32, size, (256, 0)) for size in (SIZE, longer)]
    decoder = [decode_working(TINY_DECODER, torch.float32, size) for size in (SIZE, longer)]
    assert dit[1] > 4 * dit[0]
    assert decoder[1] < 1.1 * decoder[0]


def test_encoding_keeps_one_activation_of_the_whole_video() -> None:
    longer = replace(SIZE, frames=4 * (SIZE.frames - 1) + 1)
    needs = [encode_working(TINY_ENCODER, torch.float32, size) for size in (SIZE, longer)]
    shapes = [(1, 3, size.frames, size.height, size.width) for size in (SIZE, longer)]
    kept = [math.prod(shape) + 4 * kept_values(TINY_ENCODER, shape) for shape in shapes]
    assert needs[1] - needs[0] == pytest.approx(kept[1] - kept[0], rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_of_encoding_is_what_encoding_holds(dtype: torch.dtype) -> None:
    encoder = Encoder(TINY_ENCODER).to(dtype)
    with torch.no_grad():
        lay_out(encoder)
    pixels = torch.zeros(1, 3, SIZE.frames, SIZE.height, SIZE.width, dtype=torch.uint8)
    real = peak_bytes(lambda: encoder.layered(pixels))
    estimate = encode_working(TINY_ENCODER, dtype, SIZE)
    assert real == pytest.approx(estimate, rel=0.2)  # norms copy on the meta device, as on GPUs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "size", [VideoSize(1, 16, 16), VideoSize(25, 64, 64), VideoSize(37, 480, 848)], ids=str
)
@pytest.mark.parametrize(
    "model",
    [
        (TINY_DIT, TINY_DECODER),
        (MOCHI_1.dit, MOCHI_1.decoder),
        (replace(TINY_DIT, visual_ffn=4096), replace(TINY_DECODER, blocks=(3, 0, 0, 0, 0))),
    ],
    ids=["tiny", "mochi-1", "odd"],
)
def test_the_quick_bounds_lie_above_the_estimates(
    model: tuple[DiTConfig, DecoderConfig], dtype: torch.dtype, size: VideoSize
) -> None:
    dit, decoder = model
    denoise = denoise_working(dit, dtype, size, (256, 256))
    decode = decode_working(decoder, dtype, size)
    assert denoise <= denoise_bound(dit, size)
    assert decode <= decode_bound(decoder, size)


def test_the_quick_bounds_are_of_some_use() -> None:
    """Nano's default request must not need a trace on a machine with 2 GiB to spare."""
    size = VideoSize(25, 64, 64)
    dit = DiTConfig(
        depth=7, heads=3, head_dim=64, visual_width=192, text_width=96, text_features=96
    )
    decoder = DecoderConfig(channels=(128, 96, 64, 32), blocks=(1, 1, 2, 1, 0))
    assert denoise_bound(dit, size) < 2**28
    assert decode_bound(decoder, size) < 2**28


def test_the_published_model_takes_what_was_seen_at_full_size() -> None:
    """2.6 GB of frames that convolutions keep (PERFORMANCE 2), and pieces of two frames; encoding
    keeps 4.2 + 1.1 GB, where keys and values would be 36."""
    size = VideoSize(163, 480, 848)
    decode = decode_working(MOCHI_1.decoder, torch.bfloat16, size) / 1e9
    assert 2.6 + 5 * 0.2 < decode < 4.5
    encode = encode_working(MOCHI_1.encoder, torch.bfloat16, size) / 1e9
    assert 4.2 + 1.1 < encode < 7


@pytest.mark.parametrize("size", [VideoSize(6 * 10**12 + 1, 16, 16), VideoSize(1, 16 * 10**9, 16)])
def test_absurd_sizes_are_not_traced(size: VideoSize) -> None:
    assert denoise_working(MOCHI_1.dit, torch.bfloat16, size, (256, 0)) > 2**40
    assert decode_working(MOCHI_1.decoder, torch.bfloat16, size) > 2**30
    assert encode_working(MOCHI_1.encoder, torch.bfloat16, size) > 2**30
