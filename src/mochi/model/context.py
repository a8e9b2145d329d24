"""A batch of prompts as the network wants them."""

# Shapes: B rows, L text tokens, E text width, D visual width.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class TextContext:
    """A batch of prompts as the network wants them, made once and used in every step.

    Attributes:
        tokens: projected tokens `(B, L, E)`, valid ones first, cut to the longest prompt.
        counts: valid tokens of each row.
        pooled: `(B, D)`.
    """

    tokens: Tensor
    counts: tuple[int, ...]
    pooled: Tensor

    @property
    def text_rows(self) -> slice:
        """From the first row with text to the last; an empty prompt has no text stream."""
        spoken = [row for row, count in enumerate(self.counts) if count]
        return slice(spoken[0], spoken[-1] + 1) if spoken else slice(0, 0)

    @staticmethod
    def text_is_in_one_piece(contexts: Sequence[TextContext]) -> bool:
        """Whether the rows with text lie beside each other when the contexts' rows are joined."""
        pieces, before = 0, False
        for context in contexts:
            span = context.text_rows
            for row in range(len(context.counts)):
                inside = span.start <= row < span.stop
                pieces += inside and not before
                before = inside
        return pieces <= 1

    @property
    def rows_with_text(self) -> int:
        """Length of `text_rows`."""
        return self.text_rows.stop - self.text_rows.start
