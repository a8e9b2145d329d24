"""How things that cannot be cut evenly are shared: nothing is padded, no device is idle."""

from __future__ import annotations

from itertools import accumulate, pairwise


def shares(total: int, parts: int) -> tuple[int, ...]:
    """`total` things for `parts` takers, as evenly as whole things go; the first take one more."""
    least, more = divmod(total, parts)
    return tuple(least + (place < more) for place in range(parts))


def spans(sizes: tuple[int, ...]) -> list[slice]:
    """Where each share lies when they stand one behind the other."""
    return [slice(a, b) for a, b in pairwise(accumulate(sizes, initial=0))]
