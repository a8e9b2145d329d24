"""What the noise level and the prompt multiply each block with, for all steps at once.

The modulation layers hold 27 % of the weights, and their input is the noise level and the pooled
prompt alone: they are known before the first step. One product per block makes the table of a
whole run, and the layers are not needed again (PERFORMANCE 2.1).
"""

# Shapes: P prompts' contexts, B rows of each, R = P * B, r rows that have text, S steps,
#         D visual width, E text width, I blocks, 4 = scale_attn, gate_attn, scale_mlp, gate_mlp.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mochi.model.context import TextContext
from mochi.model.rope import RotaryTables

Factors = tuple[Tensor, ...]
"""Of one block and stream, float32 `(rows, 1, width)` each: 1 + scale_attn, tanh(gate_attn),
1 + scale_mlp, tanh(gate_mlp); the text of the last block has the first alone."""


class BlockFactors(NamedTuple):
    """Of one block and step: of the visual tokens, and of the text where there is any."""

    x: Factors
    y: Factors | None


class Modulated(Protocol):
    """A block, as far as its modulation goes."""

    @property
    def mod_x(self) -> nn.Module: ...

    @property
    def mod_y(self) -> nn.Module: ...


@dataclass(frozen=True)
class Modulation:
    """All factors of one step, for some rows.

    Attributes:
        x, y: of each block; `y` is of the rows that have text, and empty if none has.
        scale_R1D, shift_R1D: of the final layer.
    """

    x: Sequence[Factors]
    y: Sequence[Factors]
    scale_R1D: Tensor
    shift_R1D: Tensor

    def block(self, index: int) -> BlockFactors | None:
        """The factors of one block; None behind the last."""
        if index >= len(self.x):
            return None
        return BlockFactors(self.x[index], self.y[index] if self.y else None)


class StepTables:
    """The modulation of every step of a run, in the dtype that the layers gave.

    Attributes:
        contexts: the prompts, in the order of their rows.
        x, y, y_last, final: `(S, I, R, 4, D)`, `(S, I - 1, r, 4, E)`, `(S, r, E)`, `(S, R, 2, D)`.
        places: positions of this device's tokens and their rotary tables, by latent size.
    """

    def __init__(
        self,
        sigmas: Sequence[float],
        contexts: Sequence[TextContext],
        x: Tensor,
        y: Tensor | None,
        y_last: Tensor | None,
        final: Tensor,
    ):
        self._steps = {sigma: step for step, sigma in enumerate(sigmas)}
        self.contexts = tuple(contexts)
        self.x, self.y, self.y_last, self.final = x, y, y_last, final
        self.places: dict[tuple[int, int, int], tuple[Tensor, RotaryTables | None]] = {}
        self._rows = [0]
        self._text_rows = [0]
        for context in contexts:
            self._rows.append(self._rows[-1] + len(context.counts))
            self._text_rows.append(self._text_rows[-1] + context.rows_with_text)

    @property
    def nbytes(self) -> int:
        """Bytes that the tables take."""
        held = (self.x, self.y, self.y_last, self.final)
        return sum(table.nbytes for table in held if table is not None)

    def step_of(self, sigma: float) -> int | None:
        """Which step begins at this level; None where none does."""
        return self._steps.get(sigma)

    def knows(self, contexts: Sequence[TextContext]) -> bool:
        """Whether these prompts are in the tables, side by side."""
        places = [self._place(context) for context in contexts]
        return -1 not in places and all(b == a + 1 for a, b in pairwise(places))

    def at(self, step: int, contexts: Sequence[TextContext]) -> Modulation:
        """The factors of one step for the rows of `contexts`, which stand side by side."""
        first, last = self._place(contexts[0]), self._place(contexts[-1]) + 1
        rows = slice(self._rows[first], self._rows[last])
        text = slice(self._text_rows[first], self._text_rows[last])
        shift, scale = self.final[step, rows].float().unsqueeze(2).unbind(1)
        of_x, of_y = _finished(self.x[step, :, rows]), self._text(step, text)
        return Modulation(of_x, of_y, 1 + scale, shift)

    def _text(self, step: int, rows: slice) -> list[Factors]:
        if self.y is None or self.y_last is None or rows.start == rows.stop:
            return []
        last = 1 + self.y_last[step, rows].float().unsqueeze(1)
        return [*_finished(self.y[step, :, rows]), (last,)]

    def _place(self, context: TextContext) -> int:
        places = (place for place, other in enumerate(self.contexts) if other is context)
        return next(places, -1)


def _finished(table_IR4D: Tensor) -> list[Factors]:
    """`1 + scale` and `tanh(gate)` of every block in float32, taken apart."""
    scales_IR2D = 1 + table_IR4D[:, :, 0::2].float()
    gates_IR2D = table_IR4D[:, :, 1::2].float().tanh()
    pairs = zip(
        scales_IR2D.unsqueeze(3).transpose(1, 2).unbind(0),
        gates_IR2D.unsqueeze(3).transpose(1, 2).unbind(0),
        strict=True,
    )
    return [(scale[0], gate[0], scale[1], gate[1]) for scale, gate in pairs]


def tabulate(
    time_embedding: Tensor,
    sigmas: Sequence[float],
    contexts: Sequence[TextContext],
    blocks: Iterable[Modulated],
    depth: int,
    final: nn.Module,
) -> StepTables:
    """The tables of a run.

    Args:
        time_embedding: `(S, 1, D)`, or `(1, R, D)` where rows differ in noise level.
        sigmas: level of each step, empty in the latter case.
        contexts: the prompts; the empty ones cost nothing on the text's side.
        blocks: each with its modulation layers ready.
        depth: number of blocks.
        final: the modulation layer of the final layer.
    """
    pooled_RD = torch.cat([context.pooled for context in contexts])
    c_SRD = F.silu(time_embedding + pooled_RD)
    spoken = [row for row, count in enumerate(_counts(contexts)) if count]
    spoken_c_SrD = c_SRD if len(spoken) == pooled_RD.shape[0] else c_SRD[:, spoken]
    x: Tensor | None = None
    y: Tensor | None = None
    y_last: Tensor | None = None
    for index, block in enumerate(blocks):
        x = _filled(x, block.mod_x(c_SRD).unflatten(-1, (4, -1)), depth, index)
        if not spoken:
            continue
        if index < depth - 1:
            y = _filled(y, block.mod_y(spoken_c_SrD).unflatten(-1, (4, -1)), depth - 1, index)
        else:
            y_last = block.mod_y(spoken_c_SrD)
    assert x is not None
    if y is None and y_last is not None:  # a single block: its text has no table of fours
        y = y_last.new_empty(y_last.shape[0], 0, y_last.shape[1], 4, y_last.shape[2])
    return StepTables(sigmas, contexts, x, y, y_last, final(c_SRD).unflatten(-1, (2, -1)))


def _filled(table: Tensor | None, part_SR4D: Tensor, depth: int, index: int) -> Tensor:
    if table is None:
        steps, *rest = part_SR4D.shape
        table = part_SR4D.new_empty(steps, depth, *rest)
    table[:, index] = part_SR4D
    return table


def _counts(contexts: Sequence[TextContext]) -> list[int]:
    """Tokens of each row; with an uneven mix in one context, all its rows count as having text."""
    counts: list[int] = []
    for context in contexts:
        span = context.text_rows
        counts += [int(span.start <= row < span.stop) for row in range(len(context.counts))]
    return counts
