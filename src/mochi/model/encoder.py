"""AsymmVAE's encoder: frames to the posterior of their latent (SPEC 4)."""

# Shapes: B batch, C channels, T frames, H W pixels, P pixels in a batch, N heads, K head_dim,
#         S frames so far.

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.config import ENCODER_HEAD_DIM, SPACE_STEP, EncoderConfig
from mochi.core.errors import RequestError
from mochi.core.latents import VaeLatent
from mochi.core.sizes import SPACE_FACTOR, nearest_frames
from mochi.model.causal import FrameNorm, ResBlock, linear_on_channels
from mochi.model.exchange import FrameExchange, FrameStream, WholeVideo
from mochi.model.layers import Linear


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over VAE latents, `(B, 12, t, h, w)` each, float32."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> VaeLatent:
        """A draw; the noise is made on the CPU, so a seed means the same on every device."""
        noise = torch.randn(self.mean.shape, generator=generator).to(self.mean.device)
        return VaeLatent(self.mean + (0.5 * self.logvar).exp() * noise)

    def mode(self) -> VaeLatent:
        """The most likely latent: the mean."""
        return VaeLatent(self.mean)


class Encoder(nn.Module):
    """RGB in [-1, 1] to a posterior; computes in its weights' dtype after float32 features."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        features = 3 * (1 + 2 * len(config.fourier))
        layers: list[nn.Module] = [Linear(features, config.channels[0])]
        layers += [ResBlock(config.channels[0]) for _ in range(config.blocks[0])]
        for index, time_step in enumerate(config.time_reductions):
            before, after = config.channels[index : index + 2]
            layers.append(DownBlock(before, after, config.blocks[index + 1], time_step))
        last = config.channels[-1]
        layers += [ResBlock(last, AttentionBlock(last)) for _ in range(config.blocks[-1])]
        self.layers = nn.ModuleList(layers)
        self.output_norm = FrameNorm(last)
        self.output_proj = Linear(last, 2 * config.latent_channels, bias=False)

    def forward(self, pixels_BCTHW: Tensor) -> Posterior:
        """The whole video at once.

        Args:
            pixels_BCTHW: `(B, 3, T, H, W)` in [-1, 1]; T is `6k + 1`, H and W multiples of 8.

        Raises:
            RequestError: another shape.
        """
        self._check(pixels_BCTHW)
        return self.encode_chunk(pixels_BCTHW, WholeVideo())

    def stream(self, pixels_BCTHW: Tensor, chunk: int = 1) -> Iterator[Posterior]:
        """The same posterior, `chunk` latent frames at a time.

        Raises:
            RequestError: another shape, or `chunk` is not positive.
        """
        self._check(pixels_BCTHW)
        if chunk < 1:
            raise RequestError("chunk", chunk, "must be at least 1 latent frame", 1)
        step = math.prod(self.config.time_reductions)
        frames, start, total = FrameStream(), 0, pixels_BCTHW.shape[2]
        while start < total:
            stop = min(total, start + chunk * step if start else (chunk - 1) * step + 1)
            yield self.encode_chunk(pixels_BCTHW[:, :, start:stop], frames)
            frames.advance()
            start = stop

    def encode_chunk(self, pixels_BCTHW: Tensor, frames: FrameExchange) -> Posterior:
        """Posterior of some frames; `frames` brings what came before them."""
        x = fourier_features(pixels_BCTHW.float(), self.config.fourier)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        for layer in self.layers:
            x = linear_on_channels(layer, x) if isinstance(layer, Linear) else layer(x, frames)
        x = linear_on_channels(self.output_proj, F.silu(self.output_norm(x))).float()
        mean, logvar = x.chunk(2, dim=1)
        return Posterior(mean, logvar)

    def _check(self, pixels_BCTHW: Tensor) -> None:
        shape = tuple(pixels_BCTHW.shape)
        if len(shape) != 5 or shape[1] != 3 or 0 in shape:
            raise RequestError("pixels", shape, "is not (batch, 3, T, H, W)")
        step = math.prod(self.config.time_reductions)
        if shape[2] % step != 1 % step:
            below, above = nearest_frames(shape[2])
            raise RequestError("frames", shape[2], "is not 6k+1", f"{below} and {above}")
        for field, pixels in (("height", shape[3]), ("width", shape[4])):
            if pixels % SPACE_FACTOR:
                raise RequestError(field, pixels, f"is not a multiple of {SPACE_FACTOR}")


class DownBlock(nn.Module):
    """A convolution whose kernel is its stride, then residual blocks with attention."""

    def __init__(self, before: int, after: int, blocks: int, time_step: int):
        super().__init__()
        size = (time_step, SPACE_STEP, SPACE_STEP)
        self.layers = nn.ModuleList([nn.Conv3d(before, after, kernel_size=size, stride=size)])
        self.layers.extend(ResBlock(after, AttentionBlock(after)) for _ in range(blocks))
        self.time_step = time_step

    def forward(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        conv, *blocks = self.layers
        if frames.at_start and self.time_step > 1:
            first = x_BCTHW[:, :, :1].expand(-1, -1, self.time_step - 1, -1, -1)
            x_BCTHW = torch.cat([first, x_BCTHW], dim=2)
        x_BCTHW = conv(x_BCTHW)
        for block in blocks:
            x_BCTHW = block(x_BCTHW, frames)
        return x_BCTHW


class AttentionBlock(nn.Module):
    """`x + attn(norm(x))`."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = FrameNorm(channels)
        self.attn = TimeAttention(channels)

    def forward(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        return x_BCTHW + self.attn(self.norm(x_BCTHW), frames)


class TimeAttention(nn.Module):
    """Each pixel attends to itself in this frame and the earlier ones; q and k have length 1."""

    def __init__(self, channels: int):
        super().__init__()
        self.qkv = Linear(channels, 3 * channels, bias=False)
        self.out = Linear(channels, channels)

    def forward(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        batch, channels, time, height, width = x_BCTHW.shape
        x_PTC = x_BCTHW.permute(0, 3, 4, 2, 1).reshape(-1, time, channels)
        q, k, v = (
            part.transpose(1, 2)
            for part in self.qkv(x_PTC).unflatten(-1, (3, -1, ENCODER_HEAD_DIM)).unbind(2)
        )
        q, k = (F.normalize(part.float(), dim=-1).to(v.dtype) for part in (q, k))
        k, v = frames.keys_values(self, k, v)
        out_PNTK = F.scaled_dot_product_attention(
            q, k, v, attn_mask=_causal(time, k.shape[2], q.device)
        )
        out_PTC = self.out(out_PNTK.transpose(1, 2).flatten(2))
        out = out_PTC.view(batch, height, width, time, channels)
        return out.permute(0, 4, 3, 1, 2).contiguous(memory_format=torch.channels_last_3d)


def _causal(queries: int, keys: int, device: torch.device) -> Tensor | None:
    """Visible (query, key) pairs where the last query sits at the last key; None if all are."""
    if queries == 1:
        return None
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def fourier_features(x_BCTHW: Tensor, exponents: tuple[int, ...]) -> Tensor:
    """Pixels followed by sines and then cosines of `x * 2 pi * 2^k`, channel major, float32."""
    scale = torch.tensor(
        [2 * math.pi * 2**k for k in exponents], dtype=x_BCTHW.dtype, device=x_BCTHW.device
    )
    angle = (x_BCTHW.unsqueeze(2) * scale.view(1, 1, -1, 1, 1, 1)).flatten(1, 2)
    return torch.cat([x_BCTHW, angle.sin(), angle.cos()], dim=1)
