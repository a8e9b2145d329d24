"""What is trained, as the trainer sees it: parameters, and pieces of a step with their losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from mochi.training.ema import WeightAverage


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a piece of a step gives.

    Attributes:
        loss: to go backward from: this piece's part of the mean over the whole batch.
        rows: which rows of the batch it computed.
        losses: the loss of each of them, `(len(rows),)`, detached.
        terms: other figures, by name, each already a part of the batch's mean.
    """

    loss: Tensor
    rows: tuple[int, ...]
    losses: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


Piece = Callable[[], Outcome]


class Task(Protocol):
    """Something that learns."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """All that learns, by name; the same throughout a training."""
        ...

    @property
    def drops(self) -> bool:
        """Whether its networks use dropout."""
        ...

    def names(self, step: int) -> tuple[str, ...]:
        """What the rows of a step's whole batch are called, on all devices together."""
        ...

    def begin(self, step: int, average: WeightAverage | None) -> None:
        """Called before a step, for what changes on the way."""
        ...

    def learn(self, on: bool) -> None:
        """Whether it learns at the moment, or is looked at: dropout drops only while it learns."""
        ...

    def pieces(self, step: int) -> Iterator[Piece]:
        """This device's share of a step, in pieces that go forward and backward in turn."""
        ...


@dataclass(frozen=True)
class Loop:
    """How a training goes, whatever it trains.

    Attributes:
        steps: updates of the weights.
        rate: factor of the learning rates at a step, counted from 0.
        seed: of dropout.
        clip_norm: largest norm of the gradients; 0 for any.
        ema: decay of the averaged weights; 0 for none.
        save_every: steps between checkpoints.
    """

    steps: int
    rate: Callable[[int], float]
    seed: int = 0
    clip_norm: float = 0.0
    ema: float = 0.0
    save_every: int = 100
