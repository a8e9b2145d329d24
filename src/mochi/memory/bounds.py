"""Upper bounds that cost nothing, for requests that are far below the limit.

The estimate traces the networks, and the first trace imports a second's worth of PyTorch. A bound
that already fits spares it. Each is checked to lie above the estimate for many sizes.
"""

from __future__ import annotations

from mochi.core.config import DecoderConfig, DiTConfig
from mochi.core.sizes import SPACE_FACTOR, VideoSize

_FLOAT32_BYTES = 4
_WIDTHS_PER_TOKEN, _FFNS_PER_TOKEN = 16, 5
_ACTIVATIONS_PER_STAGE, _CACHED_FRAMES_PER_BLOCK = 20, 8


def denoise_bound(config: DiTConfig, size: VideoSize, passes: int = 2) -> int:
    """At least what `denoise_working` says, in any dtype."""
    visual = _WIDTHS_PER_TOKEN * config.visual_width + _FFNS_PER_TOKEN * config.visual_ffn
    text = _WIDTHS_PER_TOKEN * config.visual_width + _FFNS_PER_TOKEN * config.text_ffn
    values = size.latent.tokens * visual + config.text_tokens * text
    return passes * values * _FLOAT32_BYTES


def decode_bound(config: DecoderConfig, size: VideoSize) -> int:
    """At least what `decode_working` says, in any dtype."""
    height, width, frames = size.height // SPACE_FACTOR, size.width // SPACE_FACTOR, 1
    values = size.latent.frames * height * width * config.latent_channels
    expansions = (*config.time_expansions, 0)
    per_stage = (config.blocks[0] + config.blocks[1], *config.blocks[2:])
    for channels, blocks, expansion in zip(config.channels, per_stage, expansions, strict=True):
        copies = _ACTIVATIONS_PER_STAGE * frames + _CACHED_FRAMES_PER_BLOCK * blocks
        values += copies * channels * height * width
        if expansion:
            frames, height, width = frames * expansion, 2 * height, 2 * width
    return values * _FLOAT32_BYTES
