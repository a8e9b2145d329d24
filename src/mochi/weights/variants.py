"""File names of weights in the Hugging Face manner: plain, variants, shards and their index."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WEIGHTS = re.compile(
    r"(?P<stem>[A-Za-z0-9_]+)(\.(?P<variant>\w+))?(?P<shard>-\d+-of-\d+)?\.safetensors"
)
# A variant's index is published as stem.safetensors.index.bf16.json; the sensible order occurs too.
_INDEX = re.compile(
    r"(?P<stem>[A-Za-z0-9_]+)(\.(?P<before>\w+))?\.safetensors\.index(\.(?P<after>\w+))?\.json"
)


@dataclass(frozen=True)
class WeightName:
    """What a file name says.

    Attributes:
        stem: `diffusion_pytorch_model`, `model`, ...
        variant: `bf16`, ...; empty for the plain files.
        is_shard: one of several files; the index says which belong together.
        is_index: the index itself.
    """

    stem: str
    variant: str
    is_shard: bool = False
    is_index: bool = False


def parse(name: str) -> WeightName | None:
    """Read a file name (without folders); None where it is no weights file nor index."""
    index = _INDEX.fullmatch(name)
    if index is not None:
        return WeightName(index["stem"], index["before"] or index["after"] or "", is_index=True)
    weights = _WEIGHTS.fullmatch(name)
    if weights is None:
        return None
    return WeightName(weights["stem"], weights["variant"] or "", is_shard=bool(weights["shard"]))


def choose(names: Iterable[str], variant: str | None, *, fall_back: bool = True) -> str | None:
    """Which variant to take of those among `names`.

    `variant` itself where it is there; None, or a variant that is absent with `fall_back`, takes
    the plain files, else the first by name (bf16 before fp16). None where nothing fits.
    """
    found = {known.variant for name in names if (known := parse(name)) is not None}
    if (variant or "") in found:
        return variant or ""
    return min(found, default=None) if fall_back or variant is None else None
