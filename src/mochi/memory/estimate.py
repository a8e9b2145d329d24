"""What each stage of a run holds while it works, besides weights."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from mochi.core.config import DecoderConfig, DiTConfig, EncoderConfig, T5Size
from mochi.core.sizes import TIME_FACTOR, LatentSize, VideoSize
from mochi.memory.trace import peak_bytes
from mochi.model.causal import lay_out
from mochi.model.context import TextContext
from mochi.model.decoder import Decoder
from mochi.model.dit import TOGETHER_TOKENS, AsymmDiT
from mochi.model.encoder import Encoder, TimeAttention
from mochi.model.layered import kept_values

_TRACED_DEPTH = 2
"""Blocks in a traced transformer: each frees what it made, so a third adds nothing."""

_FRAME, _LATENT_FRAMES = (32, 64), 16
_TRACED_TOKENS = LatentSize(_LATENT_FRAMES, *_FRAME).tokens
"""8,192: so many, and half of them, are traced where there are more."""

_TRACED_LATENTS = 6
"""Latent frames whose decoding is traced, at most: those that the first stage takes at a time,
which are several pieces for the last one where frames are large."""

_TRACED_FRAMES, _TRACED_PIXELS = 13, 2**19
"""How much of a video's encoding is traced: two pieces at least, and more of small frames, which go
many at a time."""

_MOST_HOLES = 64 * 2**20
_BEYOND_ANY_MACHINE = 2**44
"""16 TiB: a size whose input alone is this large is not traced."""

Prompts = tuple[int, ...]
"""Tokens of the prompt of each pass of a step; the empty prompt has none."""


def text_working(size: T5Size, dtype: torch.dtype, tokens: int) -> int:
    """Encoding a prompt: its widest layer, or the scores of all heads with their biases."""
    inner = size.heads * size.head_dim
    stream = tokens * (3 * size.width + inner) * dtype.itemsize
    feed_forward = 3 * tokens * size.feed_forward * dtype.itemsize
    scores = 4 * size.heads * tokens**2 * dtype.itemsize
    return stream + max(feed_forward, scores + 3 * tokens * inner * dtype.itemsize)


def denoise_working(
    config: DiTConfig, dtype: torch.dtype, size: VideoSize, prompts: Prompts, device: str = "cpu"
) -> int:
    """Sampling: one step with all its passes, and the solver's latents.

    Latents are float32; a solver with a history keeps at most four of them.

    Args:
        config: sizes of the transformer.
        dtype: what it computes in.
        size: of the video.
        prompts: tokens of the prompt of each pass.
        device: the kind of device it runs on.
    """
    state = 4 * math.prod(size.latent.shape(1, config.latent_channels)) * 4
    least = size.latent.tokens * config.visual_width * dtype.itemsize
    if least > _BEYOND_ANY_MACHINE:
        return state + least
    together = len(prompts) * size.latent.tokens <= TOGETHER_TOKENS.get(device, 0)
    return state + _velocity_bytes(config, dtype, size.latent, tuple(prompts), together)


def inside_kernels(traced: int, device: str) -> int:
    """What kernels take inside themselves, which a trace does not see.

    Measured: on a CPU packed matrices and threads' buffers, an eighth of the rest at most (torch
    2.13, AVX512, width 1024, 256 to 3,840 tokens); on CUDA the matrix library's workspace.
    """
    return traced // 8 + 12 * 2**20 if device == "cpu" else 64 * 2**20


def inside_convolutions(
    config: DecoderConfig | EncoderConfig, dtype: torch.dtype, traced: int, device: str
) -> int:
    """What the kernels of a VAE take inside themselves: as others, and on a CPU the largest weight
    in an order of their own, one and a half times (measured at 256 and 768 channels).

    There, too, what waits and what passes leave holes in the heap between them, more or fewer from
    run to run: up to two thirds of what is alive in a small video, up to 160 MiB in a larger one
    (docs/log.md). Half of it, and at most 64 MiB, is counted.
    """
    inside = inside_kernels(traced, device)
    if device != "cpu":
        return inside
    largest = 27 * max(config.channels) ** 2 * dtype.itemsize
    return inside + 3 * largest // 2 + min(traced // 2, _MOST_HOLES)


def table_bytes(config: DiTConfig, dtype: torch.dtype, steps: int, prompts: Prompts) -> int:
    """The modulation of all steps, made once."""
    spoken = sum(1 for tokens in prompts if tokens)
    visual = len(prompts) * (config.depth * 4 + 2) * config.visual_width
    text = spoken * ((config.depth - 1) * 4 + 1) * config.text_width
    return steps * (visual + text) * dtype.itemsize


def decode_working(config: DecoderConfig, dtype: torch.dtype, size: VideoSize) -> int:
    """Decoding as a stream, a few frames at a time, into frames that are handed on."""
    shape = size.latent.shape(1, config.latent_channels)
    latents = math.prod(shape) * 4
    least = size.height * size.width * config.channels[-1] * dtype.itemsize
    if latents + least > _BEYOND_ANY_MACHINE:
        return latents + least
    return latents + _decoder_bytes(config, dtype, shape)


def encode_working(config: EncoderConfig, dtype: torch.dtype, size: VideoSize) -> int:
    """Encoding layer by layer, each in pieces; one activation of the whole video is kept."""
    shape = (1, 3, size.frames, size.height, size.width)
    kept = math.prod(shape) + kept_values(config, shape) * dtype.itemsize  # pixels are bytes
    least = size.height * size.width * config.channels[0] * dtype.itemsize
    if kept + least > _BEYOND_ANY_MACHINE:
        return kept + least
    frames = max(
        _TRACED_FRAMES,
        _TRACED_PIXELS // (size.height * size.width) // TIME_FACTOR * TIME_FACTOR + 1,
    )
    traced = (1, 3, min(size.frames, frames), size.height, size.width)
    working = _encoder_bytes(config, dtype, traced) - kept_values(config, traced) * dtype.itemsize
    return kept + working


@lru_cache(maxsize=256)
def _decoder_bytes(config: DecoderConfig, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    with torch.device("meta"), torch.no_grad():
        decoder = Decoder(config).to(dtype)
        lay_out(decoder)
        first = min(_TRACED_LATENTS, decoder.frames_at_a_time(shape)[0])
        latents = torch.empty(*shape[:2], min(shape[2], first), *shape[3:])
        return peak_bytes(lambda: deque(decoder.stream(latents), maxlen=0))


@lru_cache(maxsize=256)
def _encoder_bytes(config: EncoderConfig, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    with torch.device("meta"), torch.no_grad():
        encoder, pixels = Encoder(config).to(dtype), torch.empty(shape)
        lay_out(encoder)
        for module in encoder.modules():
            if isinstance(module, TimeAttention):
                module.attention = lambda q, k, v, **masks: torch.empty_like(q)
        return peak_bytes(lambda: encoder.layered(pixels))


def _velocity_bytes(
    config: DiTConfig, dtype: torch.dtype, latent: LatentSize, prompts: Prompts, together: bool
) -> int:
    """One step; what many tokens take is told from fewer, as all of it grows with their number."""
    if latent.tokens <= _TRACED_TOKENS:
        return _traced_velocity(config, dtype, latent, prompts, together)
    less, more = (
        _traced_velocity(config, dtype, LatentSize(frames, *_FRAME), prompts, together)
        for frames in (_LATENT_FRAMES // 2, _LATENT_FRAMES)
    )
    each = (more - less) / (_TRACED_TOKENS // 2)
    return round(more + each * (latent.tokens - _TRACED_TOKENS))


@lru_cache(maxsize=256)
def _traced_velocity(
    config: DiTConfig, dtype: torch.dtype, latent: LatentSize, prompts: Prompts, together: bool
) -> int:
    with torch.device("meta"), torch.no_grad():
        dit = AsymmDiT(replace(config, depth=min(config.depth, _TRACED_DEPTH))).to(dtype)
        dit.attention = _attention_output_only
        dit.passes = "together" if together else "apart"
        z = torch.empty(latent.shape(1, config.latent_channels))
        contexts = [
            TextContext(
                torch.empty(1, tokens, config.text_width, dtype=dtype),
                (tokens,),
                torch.empty(1, config.visual_width, dtype=dtype),
            )
            for tokens in prompts
        ]
        tables = dit.prepare_steps([1.0], contexts)
        return peak_bytes(lambda: dit.velocities(z, 1.0, contexts, tables))


def _attention_output_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What an attention kernel holds: its output. None of those in use keeps all scores."""
    return torch.empty_like(q)
