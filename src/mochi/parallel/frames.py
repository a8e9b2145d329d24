"""The VAE's decoder on many ranks, split in time: frames in order, exactly those of one process.

It goes in rounds, so that memory does not grow with the video: in a round every rank takes
some latent frames, those of one round side by side. Each convolution passes its last two frames on
to the next rank, and from the last rank of a round to the first one of the next. Norms see single
frames, so nothing else travels but the finished pixels, to the first rank.
"""

# Shapes: B batch, C channels, T frames, H W pixels.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mochi.core.config import SPACE_STEP, DecoderConfig
from mochi.model.causal import lay_out
from mochi.model.convolve import on_cpu
from mochi.model.decoder import Decoder
from mochi.parallel.group import Group, Pending, Shape
from mochi.parallel.passing import FromRank, Kept, PassedFrames, Sink, Source, ToRank
from mochi.parallel.shares import shares

PIXELS = "pixels"

_MIB = 2**20
_ACTIVATIONS = 4
"""Tensors like its input that a block holds, its result among them."""


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


def frames_at_a_time(
    config: DecoderConfig, shape: Sequence[int], itemsize: int, device: torch.device
) -> int:
    """Latent frames of a rank in one round, if nobody says otherwise: two of the published size in
    bfloat16 on a GPU; and at least one.

    Args:
        config: sizes of the decoder.
        shape: of all latents, `(B, 12, t, h, w)`.
        itemsize: bytes of a number in the decoder.
        device: where it computes.
    """
    limit = 256 * _MIB if on_cpu(device) else 1280 * _MIB
    return max(1, limit // (_largest(config, shape) * itemsize))


def share_bytes(
    config: DecoderConfig, shape: Sequence[int], itemsize: int, device: torch.device, ranks: int
) -> int:
    """What a rank takes to decode its share, beside the weights; arguments as above, and how many
    ranks there are. Messages that wait for the next rank count in full."""
    at_a_time = min(-(-shape[2] // ranks), frames_at_a_time(config, shape, itemsize, device))
    messages = sum(math.prod(message) for message in decoder_messages(config, shape))
    return itemsize * (_ACTIVATIONS * at_a_time * _largest(config, shape) + messages)


def _largest(config: DecoderConfig, shape: Sequence[int]) -> int:
    """Numbers of the largest activation that one latent frame becomes."""
    largest, pixels, time = 0, shape[0] * shape[3] * shape[4], 1
    for channels, step in zip(config.channels, (*config.time_expansions, 1), strict=True):
        largest = max(largest, channels * time * pixels)
        time, pixels = time * step, pixels * SPACE_STEP**2
    return largest


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
    shape, weight = latents_BCTHW.shape, decoder.output_proj.weight
    most = most or frames_at_a_time(decoder.config, shape, weight.itemsize, weight.device)
    plan = rounds(shape[2], group.size, most)
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


def _wait(pending: list[Pending]) -> None:
    for each in pending:
        each.wait()
    pending.clear()
