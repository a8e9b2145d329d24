"""What each stage of a run takes on its device: weights, and what it holds while it works."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig
from mochi.core.sizes import LatentSize, VideoSize
from mochi.memory.trace import peak_bytes
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT, TextContext
from mochi.model.encoder import Encoder

_TRACED_DEPTH = 2
"""Blocks in a traced transformer: each frees what it made, so a third adds nothing."""

_TRACED_CHUNKS = 2
"""Latent frames in a traced stream: the first fills the caches, the second is the steady state
(a third adds under 0.5 % at 848x480)."""

_BEYOND_ANY_MACHINE = 2**44
"""16 TiB: a size whose input alone is this large is not traced."""

_TEXT_WORKING_BYTES = 256 * 2**20
"""What T5 holds besides its weights: generous for XXL in float32 at 2 x 256 tokens."""


@dataclass(frozen=True)
class Need:
    """What one stage takes on its device, in bytes."""

    stage: str
    weights: int
    working: int

    @property
    def total(self) -> int:
        """Weights and working memory together."""
        return self.weights + self.working


def text_need(weights: int) -> Need:
    """Encoding prompts; `weights` are the encoder's bytes as loaded."""
    return Need("text", weights, min(_TEXT_WORKING_BYTES, 8 * weights))


def denoise_need(
    config: DiTConfig, weights: int, dtype: torch.dtype, size: VideoSize, batch: int = 1
) -> Need:
    """Sampling: a forward pass in `dtype`, and the solver's latents.

    Latents are float32; a solver with a history keeps at most four of them.
    """
    shape = size.latent.shape(batch, config.latent_channels)
    state = 4 * math.prod(shape) * 4
    least = batch * size.latent.tokens * config.visual_width * dtype.itemsize
    if least > _BEYOND_ANY_MACHINE:
        return Need("denoise", weights, state + least)
    return Need("denoise", weights, state + _velocity_bytes(config, dtype, size.latent, batch))


def decode_need(config: DecoderConfig, weights: int, dtype: torch.dtype, size: VideoSize) -> Need:
    """Decoding as a stream, one latent frame at a time, into frames that are handed on."""
    shape = size.latent.shape(1, config.latent_channels)
    latents = math.prod(shape) * 4
    least = size.height * size.width * config.channels[-1] * dtype.itemsize
    if latents + least > _BEYOND_ANY_MACHINE:
        return Need("decode", weights, latents + least)
    traced = (*shape[:2], min(shape[2], _TRACED_CHUNKS), *shape[3:])
    return Need("decode", weights, latents + _decoder_bytes(config, dtype, traced))


def encode_need(config: EncoderConfig, weights: int, dtype: torch.dtype, size: VideoSize) -> Need:
    """Encoding as a stream; the keys and values along time are kept for the whole video."""
    pixels = size.frames * size.height * size.width * 3 * 4
    least = pixels + size.height * size.width * config.channels[0] * dtype.itemsize
    if least > _BEYOND_ANY_MACHINE:
        return Need("encode", weights, least)
    frames = min(size.frames, math.prod(config.time_reductions) * (_TRACED_CHUNKS - 1) + 1)
    working = _encoder_bytes(config, dtype, (1, 3, frames, size.height, size.width))
    return Need("encode", weights, pixels + working + _keys_values_bytes(config, dtype, size))


@lru_cache(maxsize=256)
def _decoder_bytes(config: DecoderConfig, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    with torch.device("meta"):
        decoder, latents = Decoder(config).to(dtype), torch.empty(shape)
        return peak_bytes(lambda: _exhaust(decoder, latents))


@lru_cache(maxsize=256)
def _encoder_bytes(config: EncoderConfig, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    with torch.device("meta"):
        encoder, pixels = Encoder(config).to(dtype), torch.empty(shape)
        return peak_bytes(lambda: _exhaust(encoder, pixels))


@lru_cache(maxsize=256)
def _velocity_bytes(config: DiTConfig, dtype: torch.dtype, latent: LatentSize, batch: int) -> int:
    length = config.text_tokens
    with torch.device("meta"):
        dit = AsymmDiT(replace(config, depth=min(config.depth, _TRACED_DEPTH))).to(dtype)
        dit.attention = _attention_output_only
        z = torch.empty(latent.shape(batch, config.latent_channels))
        sigma = torch.empty(batch)
        text = TextContext(
            torch.empty(batch, length, config.text_width, dtype=dtype),
            (length,) * batch,
            torch.empty(batch, config.visual_width, dtype=dtype),
        )
        return peak_bytes(lambda: dit.velocity(z, sigma, text))


def _attention_output_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What an attention kernel holds: its output. None of those in use keeps all scores."""
    return torch.empty_like(q)


def _keys_values_bytes(config: EncoderConfig, dtype: torch.dtype, size: VideoSize) -> int:
    """Keys and values of every attention block of the encoder, over all its frames.

    While a block adds a chunk to them, its own are there twice.
    """
    frames, height, width = float(size.frames), size.height, size.width
    per_block = []
    for stage, channels in enumerate(config.channels[1:]):
        frames /= config.time_reductions[stage]
        height, width = height // 2, width // 2
        blocks = config.blocks[stage + 1] + (config.blocks[-1] if stage == 2 else 0)
        per_block += [2 * math.ceil(frames) * height * width * channels * dtype.itemsize] * blocks
    return sum(per_block) + max(per_block, default=0)


def _exhaust(network: Decoder | Encoder, x: Tensor) -> None:
    for _ in network.stream(x):
        pass
