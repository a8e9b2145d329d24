"""AsymmVAE's encoder: frames to the posterior of their latent (SPEC 4)."""

# Shapes: B batch, C channels, T frames, H W pixels, P pixels in a batch, N heads, K head_dim,
#         S frames so far.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.core.config import ENCODER_HEAD_DIM, SPACE_STEP, EncoderConfig
from mochi.core.errors import RequestError
from mochi.core.latents import VaeLatent
from mochi.core.sizes import SPACE_FACTOR, nearest_frames
from mochi.model.causal import FrameNorm, ResBlock, lay_out, linear_on_channels
from mochi.model.exchange import FrameExchange, FrameStream, WholeVideo
from mochi.model.layered import Layers, MakeVideo
from mochi.model.layers import Linear
from mochi.model.staged import Stage


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
        lay_out(self)
        return self.encode_chunk(pixels_BCTHW, WholeVideo())

    def stream(self, pixels_BCTHW: Tensor, chunk: int = 1) -> Iterator[Posterior]:
        """The same posterior, `chunk` latent frames at a time, each as soon as its frames are seen.

        Keys and values of all frames so far are kept: at 848x480x163 36 GB in bfloat16. `layered`
        takes less memory and time where the whole video is at hand.

        Raises:
            RequestError: another shape, or `chunk` is not positive.
        """
        self._check(pixels_BCTHW)
        if chunk < 1:
            raise RequestError("chunk", chunk, "must be at least 1 latent frame", 1)
        lay_out(self)
        step = math.prod(self.config.time_reductions)
        frames, start, total = FrameStream(), 0, pixels_BCTHW.shape[2]
        while start < total:
            stop = min(total, start + chunk * step if start else (chunk - 1) * step + 1)
            yield self.encode_chunk(pixels_BCTHW[:, :, start:stop], frames)
            frames.advance()
            start = stop

    def layered(
        self,
        pixels_BCTHW: Tensor,
        make_video: MakeVideo = torch.empty,
        on_piece: Callable[[], object] = lambda: None,
    ) -> Posterior:
        """The same posterior, layer after layer, each going through the video in pieces.

        What is kept is one activation of the whole video at half its height and width (4.3 GB in
        bfloat16 at 848x480x163), and no keys and values. Carries no gradients.

        Args:
            pixels_BCTHW: as for `forward`, on any device; uint8 ones from 0 to 255 too.
            make_video: makes what is kept from `(shape, dtype=, device=)`. One that returns tensors
                in the CPU's memory, or mapped from a file, spares that of the device.
            on_piece: called before each piece of work; may raise, to stop.

        Raises:
            RequestError: another shape.
        """
        self._check(pixels_BCTHW)
        lay_out(self)
        with torch.no_grad():
            parts = list(Layers(self, make_video, on_piece).run(pixels_BCTHW))
        return Posterior(
            torch.cat([part.mean for part in parts], dim=2),
            torch.cat([part.logvar for part in parts], dim=2),
        )

    def encode_chunk(self, pixels_BCTHW: Tensor, frames: FrameExchange) -> Posterior:
        """Posterior of some frames; `frames` brings what came before them."""
        x = self.enter(pixels_BCTHW, frames)
        for shrink, blocks in self.levels():
            x = shrink(x, frames)
            for block in blocks:
                x = block(x, frames)
        return self.leave(x)

    def enter(self, pixels_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        """Pixels to what the first down block takes."""
        x = fourier_features(pixels_BCTHW.float(), self.config.fourier)
        layers: Any = self.layers
        x = linear_on_channels(layers[0], x.contiguous(memory_format=torch.channels_last_3d))
        for block in layers[1 : 1 + self.config.blocks[0]]:
            x = block(x, frames)
        return x

    def levels(self) -> list[tuple[Stage, Sequence[ResBlock]]]:
        """For each size of a frame: what makes it, and the blocks with attention that follow."""
        first = 1 + self.config.blocks[0]
        last = first + len(self.config.time_reductions)
        layers: Any = self.layers
        downs = layers[first:last]
        blocks = [list(down.layers[1:]) for down in downs]
        blocks[-1] += layers[last:]
        return [(down.shrink, some) for down, some in zip(downs, blocks, strict=True)]

    def leave(self, x_BCTHW: Tensor) -> Posterior:
        """What the last block made to a posterior."""
        x = F.silu(self.output_norm(x_BCTHW), inplace=not torch.is_grad_enabled())
        mean, logvar = linear_on_channels(self.output_proj, x).float().chunk(2, dim=1)
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
        x_BCTHW = self.shrink(x_BCTHW, frames)
        for block in self.layers[1:]:
            x_BCTHW = block(x_BCTHW, frames)
        return x_BCTHW

    def shrink(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        """The convolution."""
        if frames.at_start and self.time_step > 1:
            first = x_BCTHW[:, :, :1].expand(-1, -1, self.time_step - 1, -1, -1)
            x_BCTHW = torch.cat([first, x_BCTHW], dim=2)
        return self.layers[0](x_BCTHW)


class AttentionBlock(nn.Module):
    """`x + attn(norm(x))`."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = FrameNorm(channels)
        self.attn = TimeAttention(channels)

    def forward(self, x_BCTHW: Tensor, frames: FrameExchange) -> Tensor:
        out_BCTHW = self.attn(self.norm(x_BCTHW), frames)
        return x_BCTHW + out_BCTHW if torch.is_grad_enabled() else out_BCTHW.add_(x_BCTHW)


class TimeAttention(nn.Module):
    """Each pixel attends to itself in this frame and the earlier ones; q and k have length 1.

    Attributes:
        attention: PyTorch's, or something that takes and gives the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.attention: Callable[..., Tensor] = F.scaled_dot_product_attention
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
        if k.shape[2] == time:
            out_PNTK = self.attention(q, k, v, is_causal=True)
        else:
            mask = _causal(time, k.shape[2], q.device)
            out_PNTK = self.attention(q, k, v, attn_mask=mask)
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
