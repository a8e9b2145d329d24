"""The index of a checkpoint in pieces: `*.safetensors.index.json` and its odd relatives."""

from __future__ import annotations

import json
from pathlib import Path

from mochi.core.errors import WeightsError
from mochi.weights.header import MAX_HEADER_BYTES
from mochi.weights.tensors import StrPath


def shards(index: StrPath) -> tuple[Path, ...]:
    """The files that an index (`*.safetensors.index.json`) names, in order.

    Raises:
        WeightsError: the index is broken, leaves its folder, or a shard is missing.
    """
    path = Path(index)
    try:
        if path.stat().st_size > MAX_HEADER_BYTES:
            raise WeightsError("is too large for an index", path)
        parsed = json.loads(path.read_text("utf-8"))
        names = sorted({str(name) for name in parsed["weight_map"].values()})
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", path) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WeightsError("is no index of shards: it has no weight_map", path) from None
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise WeightsError(f"names a shard outside its folder: {name[:80]!r}", path)
        if not (path.parent / name).is_file():
            raise WeightsError(f"names the shard {name}, which is missing", path)
    if not names:
        raise WeightsError("names no shards", path)
    return tuple(path.parent / name for name in names)
