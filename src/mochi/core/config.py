"""Sizes of the networks as frozen values. Tiny is a config, not a mock.

What no config holds is a constant of the published design and not readable from a checkpoint's
shapes (SPEC 1): 8 pooling heads, 32 norm groups, encoder heads of 32, space factors of 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mochi.core.sizes import LATENT_CHANNELS, PATCH

POOLING_HEADS = 8
NORM_GROUPS = 32
ENCODER_HEAD_DIM = 32
SPACE_STEP = 2
FFN_MULTIPLE = 256


def ffn_width(width: int) -> int:
    """Hidden width of a SwiGLU MLP on `width` channels: `256 * ceil(int(2/3 * 4 * D) / 256)`."""
    return FFN_MULTIPLE * -(-int(2 / 3 * 4 * width) // FFN_MULTIPLE)


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of an AsymmDiT (SPEC 2); the defaults are the published ones.

    `visual_width` must be `heads * head_dim`. `visual_ffn` and `text_ffn` are the hidden widths
    of the two MLPs; 0 means the published rule, `ffn_width`.
    """

    depth: int = 48
    heads: int = 24
    head_dim: int = 128
    visual_width: int = 3072
    text_width: int = 1536
    text_features: int = 4096
    text_tokens: int = 256
    latent_channels: int = LATENT_CHANNELS
    patch: int = PATCH
    time_features: int = 256
    visual_ffn: int = 0
    text_ffn: int = 0

    def __post_init__(self) -> None:
        if self.heads * self.head_dim != self.visual_width:
            raise ValueError(
                f"visual_width={self.visual_width} is not heads x head_dim = "
                f"{self.heads} x {self.head_dim}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; RoPE rotates pairs")
        if self.text_features % POOLING_HEADS:
            raise ValueError(
                f"text_features={self.text_features} is not a multiple of {POOLING_HEADS} heads"
            )
        object.__setattr__(self, "visual_ffn", self.visual_ffn or ffn_width(self.visual_width))
        object.__setattr__(self, "text_ffn", self.text_ffn or ffn_width(self.text_width))


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the VAE decoder (SPEC 4), from the latent to the frames.

    `channels[i]` is the width of stage i; `blocks` counts residual blocks before the first
    expansion, after each expansion but the last, and at full size.
    """

    channels: tuple[int, ...] = (768, 512, 256, 128)
    blocks: tuple[int, ...] = (3, 6, 4, 3, 3)
    time_expansions: tuple[int, ...] = (3, 2, 1)
    latent_channels: int = LATENT_CHANNELS

    def __post_init__(self) -> None:
        _check_stages(self.channels, self.blocks, self.time_expansions)


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the VAE encoder (SPEC 4), from the frames to the latent.

    `blocks` counts residual blocks at full size, in each of the down blocks, and at the end.
    """

    channels: tuple[int, ...] = (64, 128, 256, 384)
    blocks: tuple[int, ...] = (3, 3, 4, 6, 3)
    time_reductions: tuple[int, ...] = (1, 2, 3)
    latent_channels: int = LATENT_CHANNELS
    fourier: tuple[int, ...] = (6, 7)

    def __post_init__(self) -> None:
        _check_stages(self.channels, self.blocks, self.time_reductions)
        if any(channels % ENCODER_HEAD_DIM for channels in self.channels[1:]):
            raise ValueError(f"channels={self.channels} are not multiples of {ENCODER_HEAD_DIM}")


def _check_stages(
    channels: tuple[int, ...], blocks: tuple[int, ...], time_steps: tuple[int, ...]
) -> None:
    if len(channels) != len(time_steps) + 1 or len(blocks) != len(channels) + 1:
        raise ValueError(
            f"{len(time_steps)} changes of size need {len(time_steps) + 1} channels and "
            f"{len(time_steps) + 2} block counts; got channels={channels}, blocks={blocks}"
        )
    if any(width % NORM_GROUPS for width in channels):
        raise ValueError(f"channels={channels} are not multiples of {NORM_GROUPS} norm groups")


@dataclass(frozen=True)
class T5Size:
    """Sizes of a T5 v1.1 encoder (gated GELU, no bias anywhere); the defaults are those of XXL."""

    vocabulary: int = 32128
    width: int = 4096
    feed_forward: int = 10240
    depth: int = 24
    heads: int = 64
    head_dim: int = 64


@dataclass(frozen=True)
class ModelConfig:
    """The three networks whose weights a Mochi checkpoint holds."""

    dit: DiTConfig = field(default_factory=DiTConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)


MOCHI_1 = ModelConfig()
"""The published model: 10.03 B, 362.5 M and 97.2 M parameters."""
