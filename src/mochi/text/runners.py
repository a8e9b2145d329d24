"""How T5 runs: whole and in place, or block by block while its weights pass by."""

# Shapes: L tokens of a prompt, G features.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from mochi.model.residency import Block

if TYPE_CHECKING:
    from transformers import T5EncoderModel


class Walks(Protocol):
    """What brings the blocks: as a network's `Residency`, of which T5 needs no more."""

    def walk(self, blocks: Sequence[Block]) -> Iterator[Block]:
        """Each block in turn, ready to compute until the next is asked for."""
        ...


class Runner(Protocol):
    """An encoder of token ids.

    Attributes:
        width: features of a token.
        vocabulary: token ids there are.
        dtype, device: of the features.
    """

    width: int
    vocabulary: int
    dtype: torch.dtype
    device: torch.device

    def run(self, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Features `(1, L, G)` of each prompt; none depends on the others."""
        ...

    def close(self) -> None:
        """Let the weights go."""
        ...


class WholeT5:
    """All weights in place; the prompts run one after the other."""

    def __init__(self, model: T5EncoderModel):
        self.width = int(model.config.d_model)
        self.vocabulary = int(model.config.vocab_size)
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self._model: Any = model

    @torch.no_grad()
    def run(self, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        ids = (torch.tensor([prompt], device=self.device) for prompt in prompts)
        return [self._model(row).last_hidden_state for row in ids]

    def close(self) -> None:
        self._model = None


class StreamedT5:
    """A block's weights are there only while all prompts pass through it.

    Args:
        model: in eval mode, its weights where they are stored, unconverted.
        residency: brings the blocks, ready to compute in `dtype` on `device`.
        dtype: what the encoder computes in.
        device: where.
    """

    def __init__(
        self,
        model: T5EncoderModel,
        residency: Walks,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.width = int(model.config.d_model)
        self.vocabulary = int(model.config.vocab_size)
        self.dtype, self.device = dtype, device
        self._residency: Walks | None = residency
        self._table: Any = model.shared
        self._blocks: Sequence[nn.Module] = list(model.encoder.block)
        self._last_norm: Any = model.encoder.final_layer_norm.to(device, dtype)

    @torch.no_grad()
    def run(self, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
        assert self._residency is not None
        rows_1LG = [self._embedded(prompt) for prompt in prompts]
        biases: list[Tensor | None] = [None] * len(rows_1LG)  # the first block's are all blocks'
        for block in self._residency.walk(self._blocks):
            for index, row_1LG in enumerate(rows_1LG):
                rows_1LG[index], biases[index], *_ = block(row_1LG, None, biases[index])
        return [self._last_norm(row_1LG) for row_1LG in rows_1LG]

    def close(self) -> None:
        self._residency, self._table, self._blocks = None, None, ()

    def _embedded(self, ids: Sequence[int]) -> Tensor:
        """Of the table, only the rows of these tokens are looked at."""
        found: Tensor = self._table(torch.tensor([ids]))
        return found.to(self.device, self.dtype)
