"""The exchange of tokens on a mesh: heads against tokens inside a group, rings between groups."""

# Shapes: B batch, N all visual tokens, n this rank's, L text tokens, H heads, h this rank's,
#         K head_dim, C channels.

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mochi.model.exchange import Attention
from mochi.model.kernels import QKV
from mochi.parallel.group import Group
from mochi.parallel.moves import gather_partial, gather_replicated, repartition
from mochi.parallel.overlap import part_spans, parts_of, to_heads, to_tokens
from mochi.parallel.ring import RingAttention
from mochi.parallel.shares import shares, spans

SWAP, GATHER, TEXT, AGREEMENT = "ulysses", "gather", "text heads", "agreement"


class MeshExchange:
    """A `TokenExchange` for `ring x ulysses` ranks (PERFORMANCE 4).

    Visual tokens are cut among all ranks, those of one Ulysses group side by side, without padding.
    In attention, a rank has some heads of all tokens of its Ulysses group; what lies on other
    groups comes round the ring. Every rank has the whole text, and attends with its heads of it.

    Attributes:
        ulysses, ring, everyone: the groups that this rank is in; `everyone` is in token order.
        local: the network's own kernel.
        attention: the kernel to give to the network beside this.
    """

    def __init__(self, ulysses: Group, ring: Group, everyone: Group, heads: int, local: Attention):
        self.ulysses, self.ring, self.everyone = ulysses, ring, everyone
        self._heads = shares(heads, ulysses.size)
        self._ring_attention = RingAttention(ring) if ring.size > 1 else None
        self.local = local
        self.attention: Attention = self._ring_attention or local
        self._tokens: tuple[int, ...] = ()
        self._overlap = True

    @property
    def overlap(self) -> bool:
        """Whether tokens travel while others are computed, and keys while others are used."""
        return self._overlap

    @overlap.setter
    def overlap(self, on: bool) -> None:
        self._overlap = on
        if self._ring_attention is not None:
            self._ring_attention.overlap = on

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all visual tokens of means over each rank's own; every rank calls it."""
        counts = self._tokens
        shapes = [tuple(values.shape)] * self.everyone.size
        every = self.everyone.share(values.contiguous(), shapes, AGREEMENT)
        weighted = [mean * (count / sum(counts)) for mean, count in zip(every, counts, strict=True)]
        return torch.stack(weighted).sum(dim=0)

    def split_tokens(self, x_BNC: Tensor) -> Tensor:
        self._tokens = shares(x_BNC.shape[1], self.everyone.size)
        return x_BNC[:, spans(self._tokens)[self.everyone.place]]

    def gather_tokens(self, x_BnC: Tensor) -> Tensor:
        return gather_replicated(x_BnC, self.everyone, 1, self._tokens, GATHER)

    def token_parts(self, tokens: int) -> list[slice]:
        return part_spans(tokens, self._parts)

    def tokens_to_heads(self, parts: Iterable[QKV]) -> QKV:
        if self._ring_attention is not None:
            self._ring_attention.visual = tuple(
                sum(self._group_tokens(place)) for place in range(self.ring.size)
            )
        tokens, count = self._group_tokens(self.ring.place), self._parts
        if count > 1:
            return to_heads(parts, self.ulysses, tokens, self._heads, count, SWAP)
        (whole,) = parts
        if self.ulysses.size == 1:
            return whole
        qkv = torch.stack(whole)
        q, k, v = repartition(qkv, self.ulysses, 3, self._heads, 2, tokens, SWAP).unbind(0)
        return q, k, v

    def heads_to_tokens(self, out_BNhK: Tensor) -> Iterable[Tensor]:
        tokens, count = self._group_tokens(self.ring.place), self._parts
        if count > 1:
            return to_tokens(out_BNhK, self.ulysses, tokens, self._heads, count, SWAP)
        return [repartition(out_BNhK, self.ulysses, 1, tokens, 2, self._heads, SWAP)]

    @property
    def _parts(self) -> int:
        """In how many parts tokens are exchanged. One where gradients go the same way back."""
        if not self.overlap or self.ulysses.size == 1 or torch.is_grad_enabled():
            return 1
        return parts_of(self._group_tokens(self.ring.place))

    def text_heads(self, y_BLHK: Tensor) -> Tensor:
        if self.ulysses.size == 1:
            return y_BLHK
        return y_BLHK[:, :, spans(self._heads)[self.ulysses.place]]

    def gather_text_heads(self, out_BLhK: Tensor) -> Tensor:
        return gather_partial(out_BLhK, self.ulysses, 2, self._heads, TEXT)

    def _group_tokens(self, ring_place: int) -> tuple[int, ...]:
        """Tokens of each rank of one Ulysses group."""
        first = ring_place * self.ulysses.size
        return self._tokens[first : first + self.ulysses.size]
