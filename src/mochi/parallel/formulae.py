"""How many bytes a rank sends, worked out from sizes: what `Traffic` counts, without sending.

A rank in a group of P that has 1/P of N tokens, in blocks of H heads of K numbers of s bytes:

    ulysses      q, k, v and back: 4 N/P H K s (P - 1)/P
    ring         k and v, P - 1 times: 2 N/P H K s (P - 1)
    text heads   the text's output, whole on every rank: L H/P K s (P - 1)

for each block and row. Below are the same with shares that may differ by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from mochi.core.config import SPACE_STEP, DecoderConfig, DiTConfig, EncoderConfig
from mochi.parallel.coordinates import Coordinates
from mochi.parallel.encoding import ATTENTION, LATENTS, encoder_messages
from mochi.parallel.frames import PIXELS, Turn, decoder_messages, rounds
from mochi.parallel.mesh import GUIDANCE
from mochi.parallel.passing import FRAMES
from mochi.parallel.ring import PURPOSE as RING
from mochi.parallel.scheme import Scheme
from mochi.parallel.sharded import WEIGHTS, part_bytes
from mochi.parallel.shares import shares
from mochi.parallel.tokens import GATHER, SWAP, TEXT

_FLOAT32 = 4


@dataclass(frozen=True)
class Walk:
    """What goes through the blocks as one batch.

    Attributes:
        rows: of the batch: videos, times the prompts that run together.
        text_rows: those that have text.
        text_tokens: of the longest prompt.
    """

    rows: int
    text_rows: int
    text_tokens: int


@dataclass(frozen=True)
class BlockBytes:
    """What a rank sends in one block for one walk.

    Attributes:
        into: q, k and v, on the way into attention.
        back: heads, on the way out of it.
        turns: keys and values, in each turn of the ring.
        text: the text's heads, where the block updates the text.
    """

    into: int
    back: int
    turns: tuple[int, ...]
    text: int


def block_bytes(
    config: DiTConfig, scheme: Scheme, rank: int, tokens: Sequence[int], walk: Walk, itemsize: int
) -> BlockBytes:
    """What a rank sends in one block.

    Args:
        config: sizes of the transformer.
        scheme: how the ranks share the work.
        rank: which one.
        tokens: visual tokens of the ranks of a guidance half.
        walk: what goes through the block.
        itemsize: bytes of a number in it.
    """
    place, heads = Coordinates.of(scheme, rank), shares(config.heads, scheme.ulysses)
    mine, own_heads = tokens[place.token], heads[place.ulysses]
    starts = range(0, len(tokens), scheme.ulysses)
    groups = [sum(tokens[start : start + scheme.ulysses]) for start in starts]
    one = walk.rows * config.head_dim * itemsize
    turns = (groups[(place.ring - turn) % scheme.ring] for turn in range(scheme.ring - 1))
    text = walk.text_rows * walk.text_tokens * own_heads * (scheme.ulysses - 1)
    return BlockBytes(
        into=3 * mine * (config.heads - own_heads) * one,
        back=(groups[place.ring] - mine) * own_heads * one,
        turns=tuple(2 * seen * own_heads * one for seen in turns),
        text=text * config.head_dim * itemsize,
    )


def step_bytes(
    config: DiTConfig,
    scheme: Scheme,
    rank: int,
    latent: Sequence[int],
    walks: Sequence[Walk],
    itemsize: int,
) -> dict[str, int]:
    """What a rank sends in one step, by purpose; purposes of which it sends nothing are left out.

    Args:
        config: sizes of the transformer.
        scheme: how the ranks share the work.
        rank: which one.
        latent: shape of the latent, `(B, C, T, H, W)`.
        walks: this rank's: with two guidance halves, those of its half.
        itemsize: bytes of a number in the blocks.
    """
    tokens = tokens_of(config, scheme, latent)
    found = dict.fromkeys((SWAP, RING, TEXT, GATHER, GUIDANCE), 0)
    mine = tokens[Coordinates.of(scheme, rank).token]
    for walk in walks:
        block = block_bytes(config, scheme, rank, tokens, walk, itemsize)
        found[SWAP] += config.depth * (block.into + block.back)
        found[RING] += config.depth * sum(block.turns)
        found[TEXT] += (config.depth - 1) * block.text
        pixels = config.patch**2 * config.latent_channels
        found[GATHER] += walk.rows * mine * pixels * itemsize * (len(tokens) - 1)
    if scheme.guidance > 1:
        found[GUIDANCE] = (scheme.guidance - 1) * _FLOAT32 * prod(latent)
    return {purpose: size for purpose, size in found.items() if size}


def tokens_of(config: DiTConfig, scheme: Scheme, latent: Sequence[int]) -> tuple[int, ...]:
    """Visual tokens of each rank of a guidance half, for a latent of shape `(B, C, T, H, W)`."""
    return shares(prod(latent[2:]) // config.patch**2, scheme.half)


def decode_bytes(
    config: DecoderConfig,
    latents: Sequence[int],
    ranks: int,
    place: int,
    most: int,
    itemsize: int,
    pixel_bytes: int,
) -> dict[str, int]:
    """What a rank sends while a video is decoded.

    Args:
        config: sizes of the decoder.
        latents: shape, `(B, 12, t, h, w)`.
        ranks, place: how many, and which one.
        most: latent frames that a rank takes at a time.
        itemsize: bytes of a number in the decoder.
        pixel_bytes: bytes of a finished number.
    """
    batch, _, total, height, width = latents
    step, zoom = prod(config.time_expansions), SPACE_STEP ** len(config.time_expansions)
    message = itemsize * sum(prod(shape) for shape in decoder_messages(config, latents))
    found = {FRAMES: 0, PIXELS: 0}
    turns = [turn for part in rounds(total, ranks, most) for turn in part]
    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        if turn.place != place:
            continue
        if following is not None and following.place != place:
            found[FRAMES] += message
        if place:
            frame = 3 * height * zoom * width * zoom
            found[PIXELS] += batch * turn.frames(step) * frame * pixel_bytes
    return {purpose: size for purpose, size in found.items() if size}


def encode_bytes(
    config: EncoderConfig, pixels: Sequence[int], ranks: int, place: int, itemsize: int
) -> dict[str, int]:
    """What a rank sends while a video is encoded.

    Args:
        config: sizes of the encoder.
        pixels: shape, `(B, 3, T, H, W)`.
        ranks, place: how many, and which one.
        itemsize: bytes of a number in the encoder.
    """
    batch, _, frames, height, width = pixels
    step = prod(config.time_reductions)
    counts, start = shares((frames - 1) // step + 1, ranks), 0
    turns = []
    for rank, count in enumerate(counts):
        turns.append(Turn(rank, start, start + count))
        start += count
    found = {FRAMES: 0, ATTENTION: 0, LATENTS: 0}
    if counts[place] and place + 1 < ranks and counts[place + 1]:
        found[FRAMES] = itemsize * sum(prod(shape) for shape in encoder_messages(config, pixels))
    blocks = list(config.blocks[1:-1])
    blocks[-1] += config.blocks[-1]
    for level, (count, reduction) in enumerate(zip(blocks, config.time_reductions, strict=True), 1):
        step //= reduction
        area = shares(height // SPACE_STEP**level * (width // SPACE_STEP**level), ranks)
        times = [turn.frames(step) if turn.stop > turn.start else 0 for turn in turns]
        there = times[place] * (sum(area) - area[place])
        back = (sum(times) - times[place]) * area[place]
        size = batch * config.channels[level] * itemsize
        found[ATTENTION] += count * (there + back) * size
    zoom = SPACE_STEP ** len(config.time_reductions)
    own = batch * 2 * config.latent_channels * counts[place] * height // zoom * (width // zoom)
    found[LATENTS] = own * _FLOAT32 * (ranks - 1)
    return {purpose: size for purpose, size in found.items() if size}


def weights_bytes(blocks: Sequence[int], ranks: int) -> dict[str, int]:
    """What a rank sends in one walk through blocks of so many bytes, if their weights are sharded
    among so many ranks."""
    sent = sum((ranks - 1) * part_bytes(size, ranks) for size in blocks)
    return {WEIGHTS: sent} if sent else {}
