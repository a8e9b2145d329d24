"""Where a rank stands on a mesh."""

from __future__ import annotations

from dataclasses import dataclass

from mochi.parallel.scheme import Scheme


@dataclass(frozen=True)
class Coordinates:
    """A rank's place along each direction.

    Attributes:
        guidance, ring, ulysses: among the ranks of that group.
        token: in the order of the tokens.
    """

    guidance: int
    ring: int
    ulysses: int
    token: int

    @classmethod
    def of(cls, scheme: Scheme, rank: int) -> Coordinates:
        """Ranks beside each other share a Ulysses group; guidance halves are farthest apart."""
        guidance, token = divmod(rank, scheme.ring * scheme.ulysses)
        ring, ulysses = divmod(token, scheme.ulysses)
        return cls(guidance, ring, ulysses, token)
