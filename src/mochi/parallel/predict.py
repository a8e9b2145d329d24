"""How long a step takes on many devices, from what one device and the links between them can do.

A rank computes its share of the products and of attention at the rates of one device; what it sends
takes time where it is not hidden. Communication in parts hides behind products as `overlap` does
it: all but the first part, at best. A ring's turn hides behind the attention of that turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from mochi.core.config import SPACE_STEP, DecoderConfig, DiTConfig
from mochi.parallel.coordinates import Coordinates
from mochi.parallel.formulae import (
    BlockBytes,
    Walk,
    block_bytes,
    step_bytes,
    tokens_of,
)
from mochi.parallel.frames import decoder_messages, rounds
from mochi.parallel.mesh import GUIDANCE
from mochi.parallel.overlap import PARTS
from mochi.parallel.scheme import Scheme
from mochi.parallel.shares import shares
from mochi.parallel.tokens import GATHER


@dataclass(frozen=True)
class Link:
    """A way between devices.

    Attributes:
        bytes_per_second: that a device sends, while it receives as much.
        seconds: for a message of no size.
    """

    bytes_per_second: float
    seconds: float = 0.0

    def takes(self, nbytes: float, messages: int = 1) -> float:
        """Seconds for so many bytes in so many messages; none for none."""
        return nbytes / self.bytes_per_second + messages * self.seconds if nbytes else 0.0


@dataclass(frozen=True)
class Rates:
    """What one device does.

    Attributes:
        products, attention: operations per second (a multiply-add is two) in linear layers and in
            attention.
        block_seconds: of everything in a block that does not depend on its tokens.
        token_seconds: of everything else, for each token and block.
    """

    products: float
    attention: float
    block_seconds: float = 0.0
    token_seconds: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """Devices and the links between them.

    Attributes:
        rates: of each device.
        near: the link inside a machine.
        far: the link between machines, for each device.
        machine: devices on a machine.
        hides: whether communication takes nothing from the computation beside it.
    """

    rates: Rates
    near: Link
    far: Link
    machine: int
    hides: bool = True

    def link(self, spread: int) -> Link:
        """That of a group whose ranks lie within so many ranks of the world."""
        return self.near if spread <= self.machine else self.far


@dataclass(frozen=True)
class Work:
    """Operations of one block on one rank for one walk.

    Attributes:
        qkv, proj, rest: of products: into attention, out of it, and all others.
        attention: of attention.
        tokens: rows that pass through.
    """

    qkv: float
    proj: float
    rest: float
    attention: float
    tokens: int

    @property
    def products(self) -> float:
        """All products."""
        return self.qkv + self.proj + self.rest


def work_of(
    config: DiTConfig, scheme: Scheme, rank: int, tokens: Sequence[int], walk: Walk
) -> Work:
    """What a rank computes in one block."""
    place = Coordinates.of(scheme, rank)
    heads = shares(config.heads, scheme.ulysses)[place.ulysses]
    first = place.ring * scheme.ulysses
    queries = sum(tokens[first : first + scheme.ulysses])
    mine, wide, narrow = walk.rows * tokens[place.token], config.visual_width, config.text_width
    text = walk.text_rows * walk.text_tokens
    seen = sum(tokens) + (walk.text_tokens if walk.text_rows == walk.rows else 0)
    pairs = walk.rows * queries * seen + text * seen
    return Work(
        qkv=2 * mine * 3 * wide * wide,
        proj=2 * mine * wide * wide,
        rest=2 * mine * 3 * wide * config.visual_ffn
        + 2 * text * (4 * narrow * wide + 3 * narrow * config.text_ffn),
        attention=4.0 * pairs * heads * config.head_dim,
        tokens=mine + text,
    )


def step_seconds(
    config: DiTConfig,
    scheme: Scheme,
    latent: Sequence[int],
    walks: Sequence[Sequence[Walk]],
    itemsize: int,
    cluster: Cluster,
) -> float:
    """Seconds of one step: those of the slowest rank.

    Args:
        config: sizes of the transformer.
        scheme: how the ranks share the work.
        latent: shape of the latent, `(B, C, T, H, W)`.
        walks: those of each guidance half.
        itemsize: bytes of a number in the blocks.
        cluster: the devices.
    """
    slowest = max(
        _rank_seconds(config, scheme, rank, latent, walks[rank // scheme.half], itemsize, cluster)
        for rank in range(scheme.devices)
    )
    sent = step_bytes(config, scheme, 0, latent, walks[0], itemsize)
    return slowest + cluster.link(scheme.devices).takes(sent.get(GUIDANCE, 0))


def _rank_seconds(
    config: DiTConfig,
    scheme: Scheme,
    rank: int,
    latent: Sequence[int],
    walks: Sequence[Walk],
    itemsize: int,
    cluster: Cluster,
) -> float:
    tokens, total = tokens_of(config, scheme, latent), 0.0
    for walk in walks:
        work = work_of(config, scheme, rank, tokens, walk)
        sent = block_bytes(config, scheme, rank, tokens, walk, itemsize)
        total += config.depth * _block_seconds(work, sent, scheme, cluster)
    gathered = step_bytes(config, scheme, rank, latent, walks, itemsize).get(GATHER, 0)
    return total + cluster.link(scheme.half).takes(gathered)


def _block_seconds(work: Work, sent: BlockBytes, scheme: Scheme, cluster: Cluster) -> float:
    rates, near = cluster.rates, cluster.link(scheme.ulysses)
    round_the_ring = cluster.link(scheme.half)
    attention = work.attention / rates.attention
    seconds = work.products / rates.products + attention
    seconds += rates.block_seconds + rates.token_seconds * work.tokens
    for size, beside in ((sent.into, work.qkv), (sent.back, work.proj)):
        travel = near.takes(size, PARTS if cluster.hides else 1)
        hidden = (PARTS - 1) / PARTS * min(travel, beside / rates.products)
        seconds += travel - (hidden if cluster.hides else 0)
    for size in sent.turns:
        travel = round_the_ring.takes(size)
        seconds += max(0.0, travel - attention / scheme.ring) if cluster.hides else travel
    return seconds + near.takes(sent.text)


def fit_rates(samples: Sequence[tuple[Sequence[Work], int, float]]) -> Rates:
    """Rates that explain measurements of one device best, in proportion; none is negative.

    Args:
        samples: what a block computes for each walk, how many blocks there were, and the seconds
            that took.
    """
    rows = [
        [blocks * sum(values) for values in zip(*(_columns(work) for work in works), strict=True)]
        for works, blocks, _ in samples
    ]
    matrix = torch.tensor(rows, dtype=torch.float64)
    seconds = torch.tensor([taken for *_, taken in samples], dtype=torch.float64)
    found = _least_squares(matrix / seconds.unsqueeze(1))
    products, attention, block, token = found
    return Rates(_inverse(products), _inverse(attention), block, token)


def _columns(work: Work) -> tuple[float, ...]:
    return work.products, work.attention, 1.0, float(work.tokens)


def _inverse(seconds: float) -> float:
    return 1 / seconds if seconds > 0 else float("inf")


def _least_squares(matrix: torch.Tensor) -> list[float]:
    """What comes nearest to ones when the matrix is multiplied by it; nothing is negative."""
    columns = list(range(matrix.shape[1]))
    scale = matrix.abs().amax(dim=0)
    ones = torch.ones(len(matrix), 1, dtype=matrix.dtype)
    while True:
        some = matrix[:, columns] / scale[columns]
        found = torch.linalg.lstsq(some, ones, driver="gelsd").solution.flatten()
        worst = int(found.argmin())
        if found[worst] >= 0:
            break
        columns.pop(worst)
    values = [0.0] * matrix.shape[1]
    for column, value in zip(columns, (found / scale[columns]).tolist(), strict=True):
        values[column] = value
    return values


def decode_seconds(
    config: DecoderConfig,
    latents: Sequence[int],
    ranks: int,
    most: int,
    alone: float,
    itemsize: int,
    link: Link,
) -> float:
    """Seconds until the last frame of a decode is on the first rank.

    A rank is the message of a convolution behind the one before it, and waits for no other.

    Args:
        config: sizes of the decoder.
        latents: shape, `(B, 12, t, h, w)`.
        ranks: how many.
        most: latent frames that a rank takes at a time.
        alone: seconds of one device.
        itemsize: bytes of a number in the decoder; a finished one is a byte.
        link: between the ranks.
    """
    batch, _, total, height, width = latents
    step, zoom = prod(config.time_expansions), SPACE_STEP ** len(config.time_expansions)
    messages = [itemsize * prod(shape) for shape in decoder_messages(config, latents)]
    frame = batch * 3 * height * zoom * width * zoom
    made, seconds = step * (total - 1) + 1, 0.0
    plan = rounds(total, ranks, most)
    for turns in plan:
        counts = [turn.frames(step) for turn in turns]
        seconds += alone * max(counts) / made
        seconds += (len(turns) - 1) * link.takes(max(messages))
        seconds += link.takes(frame * sum(counts[1:]), len(counts) - 1)
        if turns is not plan[-1] and len(turns) > 1:
            seconds += link.takes(sum(messages), len(messages))
    return seconds


def guided_walks(scheme: Scheme, prompts: Sequence[int], together: bool) -> list[list[Walk]]:
    """The walks of each guidance half in a guided step with prompts of so many tokens."""
    apart = [Walk(1, int(count > 0), count) for count in prompts]
    if scheme.guidance > 1 and len(prompts) == scheme.guidance:
        return [[walk] for walk in apart]
    if together and len(prompts) > 1:
        rows = sum(count > 0 for count in prompts)
        return [[Walk(len(prompts), rows, max(prompts))]] * scheme.guidance
    return [apart] * scheme.guidance


def latent_tokens(config: DiTConfig, latent: Sequence[int]) -> int:
    """Visual tokens of a latent of shape `(B, C, T, H, W)`."""
    return prod(latent[2:]) // config.patch**2
