"""Rotary positions with learned frequencies, mixed over time, rows and columns (SPEC 2).

Two routes to the same factors. `rotary_factors` is the definition: an angle for each token, then
its cosine and sine; it carries gradients. `RotaryTables` uses that an angle is a sum of three: its
factor is a product of three, one from the frame, one from the row, one from the column. They
are 111 rows of complex numbers at 848x480x163 in place of 547 MB (PERFORMANCE 2.3).
"""

# Shapes: B batch, N visual tokens, H heads, K head_dim, F = K / 2 frequencies, 3 = (t, h, w),
#         T frames, P tokens of a frame.

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

POSITION_AREA = 36_864
"""Rows and columns are scaled so that every aspect ratio covers this area (192 x 192)."""


_WHOLE = 2**20
"""So many factors at most, 8 MB, are kept ready for every token."""


def positions(frames: int, rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Position `(t, h, w)` of each token, float32 `(N, 3)`, tokens in (t, h, w) order.

    t is the frame's index; h and w are the centres of equal bins that cover
    `[-rows*s/2, rows*s/2]` and `[-columns*s/2, columns*s/2]` with `s = sqrt(36864/(rows*columns))`.
    """
    grid = torch.meshgrid(*_axes(frames, rows, columns, device), indexing="ij")
    return torch.stack(grid, dim=-1).flatten(0, 2)


def _axes(
    frames: int, rows: int, columns: int, device: torch.device | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The positions along each axis, float32."""
    scale = math.sqrt(POSITION_AREA / (rows * columns))
    t = torch.arange(frames, dtype=torch.float32, device=device)
    return t, _centres(rows, scale, device), _centres(columns, scale, device)


def _centres(bins: int, scale: float, device: torch.device | None) -> Tensor:
    index = torch.arange(bins, dtype=torch.float64)
    return ((index + 0.5 - bins / 2) * scale).to(device=device, dtype=torch.float32)


def rotary_factors(frequencies_3HF: Tensor, positions_N3: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each token's angles, float32 `(1, N, H, F)` each."""
    angle_NHF = torch.einsum("nd,dhf->nhf", positions_N3, frequencies_3HF.float())
    return angle_NHF.cos().unsqueeze(0), angle_NHF.sin().unsqueeze(0)


def rotate(x_BNHK: Tensor, cos_1NHF: Tensor, sin_1NHF: Tensor) -> Tensor:
    """Rotate each pair of elements (2i, 2i+1): `(a cos - b sin, a sin + b cos)`, float32."""
    a_BNHF, b_BNHF = x_BNHK.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack(
        [a_BNHF * cos_1NHF - b_BNHF * sin_1NHF, a_BNHF * sin_1NHF + b_BNHF * cos_1NHF], dim=-1
    ).flatten(-2)


@dataclass(frozen=True)
class RotaryTables:
    """Factors of frames, and of the tokens of one frame, as complex numbers.

    Attributes:
        frames_THF, rows_RHF, columns_CHF: `exp(i * position * frequency)` along each axis, worked
            out in float64 and rounded once.
    """

    frames_THF: Tensor
    rows_RHF: Tensor
    columns_CHF: Tensor

    @classmethod
    def make(cls, frequencies_3HF: Tensor, frames: int, rows: int, columns: int) -> RotaryTables:
        """The tables of a size; without gradients."""
        device = frequencies_3HF.device
        turns = frequencies_3HF.detach().to("cpu" if device.type == "mps" else device).double()
        made = []
        for axis, where in enumerate(_axes(frames, rows, columns, turns.device)):
            angle = where.double()[:, None, None] * turns[axis]
            made.append(torch.complex(angle.cos(), angle.sin()).to(torch.complex64).to(device))
        return cls(*made)

    @cached_property
    def plane(self) -> Tensor:
        """Factors of the tokens of a frame, `(P, H, F)`: rows times columns, 20 MB at 848x480."""
        product = self.rows_RHF.unsqueeze(1) * self.columns_CHF.unsqueeze(0)
        return product.flatten(0, 1)

    @cached_property
    def whole(self) -> Tensor | None:
        """Factors of all tokens, `(N, H, F)`, where they are few."""
        if self.frames_THF.shape[0] * self.plane.numel() > _WHOLE:
            return None
        return (self.frames_THF.unsqueeze(1) * self.plane).flatten(0, 1)

    def factors(self, start: int, stop: int) -> Tensor:
        """Factors of the tokens from `start` to before `stop`, `(n, H, F)`."""
        if self.whole is not None:
            return self.whole[start:stop]
        tokens = self.plane.shape[0]
        parts = []
        for frame in range(start // tokens, (stop - 1) // tokens + 1):
            before = frame * tokens
            part = self.plane[max(0, start - before) : stop - before]
            parts.append(part * self.frames_THF[frame])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Rotary:
    """The factors of this device's visual tokens, in the form that a kernel wants them.

    Attributes:
        tables: the small tables, or None where gradients or an unusual share of the tokens need
            the definition.
    """

    def __init__(
        self, frequencies_3HF: Tensor, positions_N3: Tensor, tables: RotaryTables | None = None
    ):
        self._frequencies_3HF = frequencies_3HF
        self._positions_N3 = positions_N3
        self.tables = tables
        self._parts: dict[tuple[int, int], Rotary] = {}

    def part(self, start: int, stop: int) -> Rotary:
        """Those of the tokens from `start` to before `stop`; the same object each time."""
        if (start, stop) not in self._parts:
            where = self._positions_N3[start:stop]
            self._parts[start, stop] = Rotary(self._frequencies_3HF, where)
        return self._parts[start, stop]

    @cached_property
    def cos_sin(self) -> tuple[Tensor, Tensor]:
        """By the definition, float32 `(1, N, H, F)` each; made when first asked for."""
        return rotary_factors(self._frequencies_3HF, self._positions_N3)

    @cached_property
    def pairs(self) -> Tensor:
        """Cosine and sine side by side, `(N, H, F, 2)`; made when first asked for."""
        cos_1NHF, sin_1NHF = self.cos_sin
        return torch.stack([cos_1NHF[0], sin_1NHF[0]], dim=-1)

    def factors(self, start: int, stop: int) -> Tensor:
        """Of the tokens from `start` to before `stop` as complex numbers, `(n, H, F)`."""
        if self.tables is not None:
            return self.tables.factors(start, stop)
        return torch.view_as_complex(self.pairs[start:stop])
