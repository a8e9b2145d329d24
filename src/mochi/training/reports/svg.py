"""Curves as SVG, without a library: lines, axes with round numbers, a legend."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 28, 30
_MOST_POINTS = 500
_TICKS = 5
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777")


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        label: for the legend; "" for none.
        faint: drawn behind the others, pale.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: str = COLOURS[0]
    faint: bool = False


def chart(title: str, lines: Sequence[Line], last_x: float) -> str:
    """An SVG picture of curves over steps from 0 to `last_x`; points that are no number are left
    out."""
    finite = [_finite(line) for line in lines]
    values = [y for points in finite for _, y in points]
    if not values:
        return ""
    low, high, ticks = _scale(min(values), max(values))
    frame = _Frame(0.0, max(1.0, last_x), low, high)
    parts = [frame.y_tick(tick) for tick in ticks]
    parts += [frame.x_tick(tick) for tick in _scale(0, frame.right)[2] if tick <= frame.right]
    parts += [frame.curve(line, points) for line, points in zip(lines, finite, strict=True)]
    parts.append(_legend([line for line in lines if line.label]))
    name = html.escape(title)
    return (
        f'<figure><figcaption>{name}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'role="img" aria-label="{name}">{"".join(parts)}</svg></figure>'
    )


def smooth(ys: Sequence[float], window: int) -> list[float]:
    """The running mean over about `window` values (exponential, without a bias at the start)."""
    keep = 1 - 1 / max(1, window)
    total, weight, result = 0.0, 0.0, []
    for y in ys:
        if math.isfinite(y):
            total, weight = total * keep + y, weight * keep + 1
        result.append(total / weight if weight else math.nan)
    return result


@dataclass(frozen=True)
class _Frame:
    """From numbers to places in the picture."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        span = _WIDTH - _LEFT - _RIGHT
        return _LEFT + span * (value - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        span = _HEIGHT - _TOP - _BOTTOM
        return _TOP + span * (self.high - value) / (self.high - self.low)

    def y_tick(self, value: float) -> str:
        y = f"{self.y(value):.1f}"
        return (
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 6}" y="{y}" dy="4" text-anchor="end">{value:.6g}</text>'
        )

    def x_tick(self, value: float) -> str:
        return (
            f'<text x="{self.x(value):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">'
            f"{value:.6g}</text>"
        )

    def curve(self, line: Line, points: Sequence[tuple[float, float]]) -> str:
        if not points:
            return ""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in thinned(points))
        look = 'class="faint"' if line.faint else 'class="line"'
        drawn = f'<polyline {look} stroke="{line.colour}" points="{places}"/>'
        if len(points) > 1:
            return drawn
        x, y = points[0]
        dot = f'cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3" fill="{line.colour}"'
        return drawn + f"<circle {dot}/>"


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about a thousand points: of each stretch its smallest and largest, so that no peak is
    lost."""
    if len(points) <= 2 * _MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / _MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=_second), max(stretch, key=_second)}
        kept += sorted(ends)
    return kept


def _second(point: tuple[float, float]) -> float:
    return point[1]


def _finite(line: Line) -> list[tuple[float, float]]:
    pairs = zip(line.xs, line.ys, strict=True)
    return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _scale(low: float, high: float) -> tuple[float, float, list[float]]:
    """Round numbers around a range: the lowest, the highest, and all of them."""
    span = high - low or abs(high) or 1.0
    raw = span / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = last if last > first else first + 1
    return first * step, last * step, [index * step for index in range(first, last + 1)]


def _legend(lines: Sequence[Line]) -> str:
    parts, x = [], _LEFT
    for line in lines:
        label = html.escape(line.label)
        parts.append(
            f'<rect x="{x}" y="10" width="14" height="4" fill="{line.colour}"/>'
            f'<text x="{x + 19}" y="16">{label}</text>'
        )
        x += 34 + 7 * len(line.label)
    return "".join(parts)
