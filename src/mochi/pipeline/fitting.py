"""Which requests may run as one batch. Imports no torch: a queue asks this too."""

from __future__ import annotations

from dataclasses import fields

from mochi.core.economy import OFF
from mochi.core.request import GenerateRequest

OWN = ("prompt", "negative_prompt", "seed", "fps", "preset", "model")
"""What may differ between requests of one batch."""


def fit_together(one: GenerateRequest, other: GenerateRequest) -> bool:
    """Whether two requests take the same steps in tensors of the same shape."""
    if (one.step_cache, other.step_cache) != (OFF, OFF):
        return False  # what a cache skips depends on what it sees
    return all(
        getattr(one, field.name) == getattr(other, field.name)
        for field in fields(GenerateRequest)
        if field.name not in OWN
    )
