"""The VAE on many ranks, split in time: frames in order, exactly those of one process.

Decoding goes in rounds, so that memory does not grow with the video: in a round every rank takes
some latent frames, those of one round side by side. Each convolution passes its last two frames on
to the next rank, and from the last rank of a round to the first one of the next. Norms see single
frames, so nothing else travels but the finished pixels, to the first rank.

Encoding takes the whole video at once. Its attention along time sees all earlier frames of a pixel:
there the cut goes through space for a moment, all frames of some pixels on each rank, and back.
"""

# Shapes: B batch, C channels, T frames, H W pixels, P all pixels of a frame, p this rank's.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mochi.core.config import SPACE_STEP, DecoderConfig, EncoderConfig
from mochi.model.causal import lay_out
from mochi.model.convolve import on_cpu
from mochi.model.decoder import Decoder
from mochi.model.encoder import AttentionBlock, Encoder, Posterior
from mochi.model.exchange import WholeVideo
from mochi.model.staged import piece_bytes
from mochi.parallel.group import Group, Pending, Shape
from mochi.parallel.moves import gather_replicated, repartition
from mochi.parallel.passing import FromRank, Kept, PassedFrames, Sink, Source, ToRank
from mochi.parallel.shares import shares, spans

PIXELS, ATTENTION, LATENTS = "pixels", "encoder attention", "latents"

_MIB = 2**20
_ATTENTION_COPIES = 12
"""Tensors like its input that attention along time holds, those in float32 counted twice."""


@dataclass(frozen=True)
class Turn:
    """Latent frames `start` to `stop` that the rank at `place` takes at one time."""

    place: int
    start: int
    stop: int

    def frames(self, step: int) -> int:
        """What becomes of them where one stands for `step` frames, and the first for one."""
        return step * (self.stop - self.start) - (step - 1 if self.start == 0 else 0)


def rounds(total: int, ranks: int, most: int) -> list[list[Turn]]:
    """Who takes which latent frames, in order; nobody more than `most` at a time.

    Ranks that would have none take no part in a round.
    """
    found, start = [], 0
    for count in shares(total, -(-total // (ranks * most))):
        turns = []
        for place, share in enumerate(shares(count, ranks)):
            if share:
                turns.append(Turn(place, start, start + share))
                start += share
        found.append(turns)
    return found


def frames_at_a_time(decoder: Decoder, shape: Sequence[int]) -> int:
    """Latent frames of a rank in one round, if nobody says otherwise: two of the published size in
    bfloat16 on a GPU, where memory holds about four such activations at a time; and at least one.

    Args:
        decoder: says the sizes, the dtype and the device.
        shape: of all latents, `(B, 12, t, h, w)`.
    """
    weight = decoder.output_proj.weight
    largest, pixels, time = 0, shape[0] * shape[3] * shape[4], 1
    for channels, step in zip(
        decoder.config.channels, (*decoder.config.time_expansions, 1), strict=True
    ):
        largest = max(largest, channels * time * pixels)
        time, pixels = time * step, pixels * SPACE_STEP**2
    limit = 256 * _MIB if on_cpu(weight.device) else 1280 * _MIB
    return max(1, limit // (largest * weight.dtype.itemsize))


def decode(
    decoder: Decoder,
    latents_BCTHW: Tensor,
    group: Group,
    most: int | None = None,
    finish: Callable[[Tensor], Tensor] = lambda pixels: pixels,
    on_round: Callable[[], object] = lambda: None,
) -> Iterator[Tensor]:
    """Decode on all ranks of a group; the pixels come out on its first rank, in order.

    Every rank goes through the iterator to its end: that is what does the work. On all but the
    first it gives nothing.

        for frames in decode(decoder, latents, mesh.everyone, finish=to_uint8):
            writer.write(frames)  # runs on the first rank only

    Args:
        decoder: the same weights on every rank.
        latents_BCTHW: VAE-space latents `(B, 12, t, h, w)`, all of them on every rank.
        group: the ranks.
        most: latent frames that a rank takes at a time; see `frames_at_a_time`.
        finish: what becomes of a rank's pixels, float32 `(B, 3, n, H, W)`, before they travel
            (bytes are a quarter); keeps the shape.
        on_round: called before each round on every rank; may raise, to stop.

    Yields:
        `finish(pixels)`, some frames at a time.

    Raises:
        RequestError: the latents have another shape.
    """
    decoder._check(latents_BCTHW)
    lay_out(decoder)
    plan = rounds(
        latents_BCTHW.shape[2],
        group.size,
        most or frames_at_a_time(decoder, latents_BCTHW.shape),
    )
    return _Decode(decoder, latents_BCTHW, group, finish).run(plan, on_round)


def decode_share(decoder: Decoder, latents_BCTHW: Tensor, group: Group) -> Tensor | None:
    """This rank's pixels of a video that is cut once; None where there are fewer latent frames than
    ranks, and this one has none. Carries gradients: they add up over the ranks.

    Args:
        decoder, latents_BCTHW, group: as for `decode`.
    """
    decoder._check(latents_BCTHW)
    total = latents_BCTHW.shape[2]
    (turns,) = rounds(total, group.size, total)
    if group.place >= len(turns):
        return None
    work = _Decode(decoder, latents_BCTHW, group, lambda pixels: pixels)
    return work.pixels(turns, turns[group.place], None, None)


class _Decode:
    """The walk through the rounds of a decode."""

    def __init__(
        self,
        decoder: Decoder,
        latents_BCTHW: Tensor,
        group: Group,
        finish: Callable[[Tensor], Tensor],
    ):
        self.decoder, self.latents, self.group, self.finish = decoder, latents_BCTHW, group, finish
        weight = decoder.output_proj.weight
        self.kind = weight.dtype, weight.device
        self.shapes = decoder_messages(decoder.config, latents_BCTHW.shape)
        self.step = math.prod(decoder.config.time_expansions)

    def run(self, plan: list[list[Turn]], on_round: Callable[[], object]) -> Iterator[Tensor]:
        """All rounds; yields on the first rank."""
        inherited, sent = Kept(), list[Pending]()
        for turns, following in zip(plan, [*plan[1:], []], strict=True):
            on_round()
            mine = next((turn for turn in turns if turn.place == self.group.place), None)
            if mine is None:
                continue
            is_first, is_last = mine is turns[0], mine is turns[-1]
            bequest = Kept() if is_last and following else None
            has_before = is_first and mine.start > 0
            pixels = self.pixels(turns, mine, inherited if has_before else None, bequest)
            pixels = self.finish(pixels)
            _wait(sent)
            if is_first:
                yield pixels
                yield from self._others_pixels(pixels, turns[1:])
            else:
                sent.append(self.group.send(pixels, turns[0].place, PIXELS))
            inherited = self._handed_over(turns, bool(following), bequest, sent)
        _wait(sent)

    def pixels(
        self, turns: list[Turn], mine: Turn, inherited: Kept | None, bequest: Kept | None
    ) -> Tensor:
        """This rank's part of a round."""
        source: Source | None = inherited
        sink: Sink | None = bequest
        if mine is not turns[0]:
            source = FromRank(self.group, mine.place - 1, self.shapes, *self.kind)
        if mine is not turns[-1]:
            sink = ToRank(self.group, mine.place + 1)
        part = self.latents[:, :, mine.start : mine.stop].to(self.kind[1])
        pixels = self.decoder.decode_chunk(part, PassedFrames(source, sink))
        if isinstance(sink, ToRank):
            sink.settle()
        return pixels

    def _others_pixels(self, like: Tensor, turns: list[Turn]) -> Iterator[Tensor]:
        """What the other ranks have made, in order."""
        coming = []
        for turn in turns:
            shape = (*like.shape[:2], turn.frames(self.step), *like.shape[3:])
            coming.append(self.group.expect(turn.place, shape, like.dtype, like.device))
        for pending in coming:
            yield pending.wait()[0]

    def _handed_over(
        self, turns: list[Turn], goes_on: bool, bequest: Kept | None, sent: list[Pending]
    ) -> Kept:
        """What the last rank of a round leaves to the first one of the next. It travels at the end,
        behind the pixels, so that every pair of ranks sends and receives in the same order."""
        first, last = turns[0].place, turns[-1].place
        if first == last or not goes_on:
            return bequest or Kept()
        if bequest is not None:
            sink = ToRank(self.group, first)
            for frames in bequest.frames:
                sink.give(frames)
            sent += sink.leaving()
        if self.group.place == first:
            return Kept(FromRank(self.group, last, self.shapes, *self.kind).take_all())
        return Kept()


def decoder_messages(config: DecoderConfig, shape: Sequence[int]) -> list[Shape]:
    """The two frames that each convolution of the decoder passes on, `(B, 2, H, W, C)`, in order.

    Args:
        config: sizes of the decoder.
        shape: of the latents, `(B, 12, t, h, w)`.
    """
    batch, _, _, height, width = shape
    first, second, *others = config.blocks
    found: list[Shape] = []
    for level, blocks in enumerate((first + second, *others)):
        zoom = SPACE_STEP**level
        found += [(batch, 2, height * zoom, width * zoom, config.channels[level])] * (2 * blocks)
    return found


def encoder_messages(config: EncoderConfig, shape: Sequence[int]) -> list[Shape]:
    """The same of the encoder.

    Args:
        config: sizes of the encoder.
        shape: of the pixels, `(B, 3, T, H, W)`.
    """
    batch, _, _, height, width = shape
    *others, before_last, last = config.blocks
    found: list[Shape] = []
    for level, blocks in enumerate((*others, before_last + last)):
        zoom = SPACE_STEP**level
        found += [(batch, 2, height // zoom, width // zoom, config.channels[level])] * (2 * blocks)
    return found


def encode(encoder: Encoder, pixels_BCTHW: Tensor, group: Group) -> Posterior:
    """Encode on all ranks of a group; every one of them gets the posterior of the whole video.

    Each holds the activations of its share of the frames. Carries gradients, which add up over the
    ranks if what is done with the posterior is the same on all of them.

    Args:
        encoder: the same weights on every rank.
        pixels_BCTHW: `(B, 3, T, H, W)` in [-1, 1], or uint8 from 0 to 255, on any device; T is
            `6k + 1`. All of it on every rank, which reads its share only.
        group: the ranks.

    Raises:
        RequestError: another shape.
    """
    encoder._check(pixels_BCTHW)
    lay_out(encoder)
    return _Encode(encoder, pixels_BCTHW, group).run()


class _Encode:
    """The walk through the encoder."""

    def __init__(self, encoder: Encoder, pixels_BCTHW: Tensor, group: Group):
        self.encoder, self.all_pixels, self.group = encoder, pixels_BCTHW, group
        weight = encoder.output_proj.weight
        self.kind = weight.dtype, weight.device
        self.step = math.prod(encoder.config.time_reductions)
        total = (pixels_BCTHW.shape[2] - 1) // self.step + 1
        places = enumerate(spans(shares(total, group.size)))
        self.turns = [Turn(place, span.start, span.stop) for place, span in places]
        self.mine = self.turns[group.place]

    def run(self) -> Posterior:
        """The posterior of the whole video."""
        frames, step = self._exchange(), self.step
        x = self._enter(frames)
        for level, (shrink, blocks) in enumerate(self.encoder.levels()):
            step //= self.encoder.config.time_reductions[level]
            x = shrink(x, frames) if self._has_frames else self._nothing(level + 1, x)
            for block in blocks:
                x = block.convolve(x, frames) if self._has_frames else x
                x = self._attend(block.attn_block, x, step)
        if isinstance(frames.sink, ToRank):
            frames.sink.settle()
        return self._gathered(x)

    @property
    def _has_frames(self) -> bool:
        return self.mine.stop > self.mine.start

    def _exchange(self) -> PassedFrames:
        source, sink, place = None, None, self.mine.place
        if self._has_frames and place > 0:
            shapes = encoder_messages(self.encoder.config, self.all_pixels.shape)
            source = FromRank(self.group, place - 1, shapes, *self.kind)
        if self._has_frames and self.mine.stop < self.turns[-1].stop:
            sink = ToRank(self.group, place + 1)
        return PassedFrames(source, sink)

    def _enter(self, frames: PassedFrames) -> Tensor:
        if not self._has_frames:
            empty = torch.empty(0, device=self.kind[1], requires_grad=torch.is_grad_enabled())
            return self._nothing(0, empty)
        stop = self.step * (self.mine.stop - 1) + 1
        part = self.all_pixels[:, :, stop - self.mine.frames(self.step) : stop].to(self.kind[1])
        if not part.is_floating_point():
            part = part.float() / 127.5 - 1
        return self.encoder.enter(part, frames)

    def _nothing(self, level: int, before: Tensor) -> Tensor:
        """The activation of a rank without frames. Gradients go on to the one before it: this rank
        takes part in the attention of others, on the way back too."""
        batch, _, _, height, width = self.all_pixels.shape
        zoom, channels = SPACE_STEP**level, self.encoder.config.channels[level]
        shape = (batch, 0, height // zoom, width // zoom, channels)
        empty = torch.empty(shape, dtype=self.kind[0], device=self.kind[1])
        return empty.permute(0, 4, 1, 2, 3) + before.sum().to(self.kind[0])

    def _attend(self, attention: AttentionBlock, x_BCTHW: Tensor, step: int) -> Tensor:
        """`x + attn(norm(x))` where each pixel sees all frames up to its own."""
        height, width = x_BCTHW.shape[3:]
        pixels = shares(height * width, self.group.size)
        times = tuple(turn.frames(step) if turn.stop > turn.start else 0 for turn in self.turns)
        normed = attention.norm(x_BCTHW) if self._has_frames else x_BCTHW
        rows_BTPC = normed.permute(0, 2, 3, 4, 1).flatten(2, 3)
        rows_BTpC = repartition(rows_BTPC, self.group, 2, pixels, 1, times, ATTENTION)
        rows_BTpC = self._attended(attention, rows_BTpC)
        rows_BTPC = repartition(rows_BTpC, self.group, 1, times, 2, pixels, ATTENTION)
        return x_BCTHW + rows_BTPC.unflatten(2, (height, width)).permute(0, 4, 1, 2, 3)

    def _attended(self, attention: AttentionBlock, x_BTpC: Tensor) -> Tensor:
        """Attention along time, some pixels at a time."""
        one_pixel = _ATTENTION_COPIES * x_BTpC[:, :, :1].numel() * x_BTpC.element_size()
        if not one_pixel:
            return x_BTpC
        parts = []
        for some_BTpC in x_BTpC.split(max(1, piece_bytes(self.kind[1]) // one_pixel), dim=2):
            some_BCT1p = some_BTpC.permute(0, 3, 1, 2).unsqueeze(3)
            parts.append(attention.attn(some_BCT1p, WholeVideo()).squeeze(3).permute(0, 2, 3, 1))
        return torch.cat(parts, dim=2)

    def _gathered(self, x_BCTHW: Tensor) -> Posterior:
        batch, _, _, height, width = x_BCTHW.shape
        if self._has_frames:
            mine = self.encoder.leave(x_BCTHW)
            both = torch.cat([mine.mean, mine.logvar], dim=1)
        else:
            channels = 2 * self.encoder.config.latent_channels
            both = torch.empty(batch, channels, 0, height, width, device=self.kind[1])
            both = both + x_BCTHW.sum().float()
        counts = tuple(turn.stop - turn.start for turn in self.turns)
        whole = gather_replicated(both, self.group, 2, counts, LATENTS)
        mean, logvar = whole.chunk(2, dim=1)
        return Posterior(mean, logvar)


def _wait(pending: list[Pending]) -> None:
    for each in pending:
        each.wait()
    pending.clear()
