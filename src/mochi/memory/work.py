"""How much there is to compute: the operations of each stage, counted from its sizes.

One multiplication with its addition counts as two operations, as in every published figure. What
is not matrix products, attention or convolutions is left to the rates, which are measured on whole
blocks.
"""

# Shapes: N visual tokens, L text tokens, D visual width, E text width, F hidden widths.

from __future__ import annotations

from dataclasses import dataclass

from mochi.core.config import SPACE_STEP, DecoderConfig, DiTConfig, EncoderConfig, T5Size
from mochi.core.sizes import VideoSize

_KERNEL = 27
"""Weights of a 3 x 3 x 3 convolution for each pair of channels."""


@dataclass(frozen=True)
class Work:
    """Operations by kind."""

    linear: float = 0.0
    attention: float = 0.0
    convolution: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.linear + other.linear,
            self.attention + other.attention,
            self.convolution + other.convolution,
        )

    def __mul__(self, times: float) -> Work:
        return Work(self.linear * times, self.attention * times, self.convolution * times)

    @property
    def total(self) -> float:
        """All kinds together."""
        return self.linear + self.attention + self.convolution


def forward_work(config: DiTConfig, size: VideoSize, text_tokens: int) -> Work:
    """One pass of the transformer for one prompt; the modulation, known before, is not in it."""
    wide, narrow, tokens = config.visual_width, config.text_width, size.latent.tokens
    visual = 4 * wide * wide + 3 * wide * config.visual_ffn
    text = 4 * wide * narrow + 3 * narrow * config.text_ffn
    linear = 2 * config.depth * (tokens * visual + text_tokens * text)
    attention = 4 * config.depth * (tokens + text_tokens) ** 2 * wide
    return Work(linear, attention)


def modulation_work(config: DiTConfig, rows: int) -> Work:
    """The modulation of `rows` pairs of step and prompt."""
    wide, narrow = config.visual_width, config.text_width
    return Work(2.0 * rows * config.depth * wide * 4 * (wide + narrow))


def text_work(size: T5Size, tokens: int) -> Work:
    """One prompt through T5."""
    inner = size.heads * size.head_dim
    linear = 2 * size.depth * tokens * size.width * (4 * inner + 3 * size.feed_forward)
    return Work(linear, 4 * size.depth * tokens**2 * inner)


def decode_work(config: DecoderConfig, size: VideoSize) -> Work:
    """A whole video through the VAE's decoder."""
    frames, height, width = size.latent.frames, size.latent.height, size.latent.width
    pixels, channels = frames * height * width, config.channels
    work = Work(2.0 * pixels * config.latent_channels * channels[0])
    work += _residual_blocks(pixels, channels[0], config.blocks[0])
    for stage, step in enumerate(config.time_expansions):
        work += _residual_blocks(pixels, channels[stage], config.blocks[stage + 1])
        expanded = channels[stage + 1] * step * SPACE_STEP**2
        work += Work(2.0 * pixels * channels[stage] * expanded)
        frames = step * (frames - 1) + 1
        height, width = SPACE_STEP * height, SPACE_STEP * width
        pixels = frames * height * width
    work += _residual_blocks(pixels, channels[-1], config.blocks[-1])
    return work + Work(2.0 * pixels * channels[-1] * 3)


def encode_work(config: EncoderConfig, size: VideoSize) -> Work:
    """A whole video through the VAE's encoder; its attention along time is next to nothing."""
    frames, height, width = size.frames, size.height, size.width
    pixels, channels = frames * height * width, config.channels
    features = 3 * (1 + 2 * len(config.fourier))
    work = Work(2.0 * pixels * features * channels[0])
    work += _residual_blocks(pixels, channels[0], config.blocks[0])
    for stage, step in enumerate(config.time_reductions):
        frames = (frames - 1) // step + 1
        height, width = height // SPACE_STEP, width // SPACE_STEP
        pixels, after = frames * height * width, channels[stage + 1]
        work += Work(2.0 * pixels * channels[stage] * step * SPACE_STEP**2 * after)
        work += _attending_blocks(pixels, after, config.blocks[stage + 1])
    work += _attending_blocks(pixels, channels[-1], config.blocks[-1])
    return work + Work(2.0 * pixels * channels[-1] * 2 * config.latent_channels)


def _residual_blocks(pixels: int, channels: int, blocks: int) -> Work:
    return Work(convolution=2.0 * blocks * 2 * pixels * _KERNEL * channels**2)


def _attending_blocks(pixels: int, channels: int, blocks: int) -> Work:
    return _residual_blocks(pixels, channels, blocks) + Work(8.0 * blocks * pixels * channels**2)
