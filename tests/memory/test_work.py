"""Operations counted from sizes: the published figures, and what torch counts on real tensors."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mochi.core.config import MOCHI_1, DecoderConfig, EncoderConfig, T5Size
from mochi.core.sizes import VideoSize
from mochi.memory.work import (
    Work,
    decode_work,
    encode_work,
    forward_work,
    modulation_work,
    text_work,
)
from mochi.model.decoder import Decoder
from mochi.model.encoder import Encoder

TERA = 1e12


@pytest.mark.parametrize(
    ("frames", "linear", "attention"), [(163, 484, 1182), (85, 259, 343), (31, 104, 57)]
)
def test_one_pass_at_848x480_is_the_published_count(
    frames: int, linear: int, attention: int
) -> None:
    """PERFORMANCE section 1; 0.9 of text beside the visual tokens."""
    work = forward_work(MOCHI_1.dit, VideoSize(frames, 480, 848), 256)
    assert work.linear / TERA == pytest.approx(linear + 0.9, rel=0.01)
    assert work.attention / TERA == pytest.approx(attention, rel=0.01)
    assert work.total == work.linear + work.attention


@pytest.mark.parametrize(("frames", "expected"), [(163, 1053), (85, 551), (31, 204)])
def test_decoding_at_848x480_is_the_published_count(frames: int, expected: int) -> None:
    work = decode_work(MOCHI_1.decoder, VideoSize(frames, 480, 848))
    assert work.total / TERA == pytest.approx(expected, rel=0.01)


def test_encoding_and_text_are_the_published_counts() -> None:
    encode = encode_work(MOCHI_1.encoder, VideoSize(163, 480, 848))
    assert encode.total / TERA == pytest.approx(281, rel=0.02)
    assert (text_work(T5Size(), 256) * 2).total / TERA == pytest.approx(4.8, rel=0.02)


def test_the_modulation_of_one_row_is_its_weights() -> None:
    """2.70 B parameters, PERFORMANCE 2.1."""
    assert modulation_work(MOCHI_1.dit, 1).linear / 2e9 == pytest.approx(2.72, rel=0.01)


def counted(network: torch.nn.Module, shape: tuple[int, ...]) -> float:
    # While gradients are recorded, convolutions are PyTorch's own, which it counts.
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.enable_grad():
        network(torch.empty(shape))
    return counter.get_total_flops()


def test_the_vae_is_what_torch_counts() -> None:
    size = VideoSize(13, 32, 48)
    with torch.device("meta"):
        decoder = Decoder(DecoderConfig(channels=(64, 32, 64, 32), blocks=(1, 2, 0, 1, 2)))
        encoder = Encoder(EncoderConfig(channels=(32, 32, 64, 64), blocks=(1, 2, 0, 1, 1)))
    expected = counted(decoder, (1, 12, 3, 4, 6))
    # Causal and spatial padding are not counted twice: the counts agree but for frame drops.
    assert decode_work(decoder.config, size).total == pytest.approx(expected, rel=0.15)
    expected = counted(encoder, (1, 3, 13, 32, 48))
    assert encode_work(encoder.config, size).total == pytest.approx(expected, rel=0.05)


def test_works_add_up() -> None:
    a, b = Work(1, 2, 3), Work(10, 20, 30)
    assert a + b == Work(11, 22, 33)
    assert a * 3 == Work(3, 6, 9)
