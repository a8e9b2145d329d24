"""Which jobs are made in one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mochi.core.errors import RequestError
from mochi.core.request import GenerateRequest
from mochi.core.sizes import VideoSize
from mochi.pipeline.fitting import fit_together

_LORAS = "loras"


def passes_tokens(request: Mapping[str, Any]) -> int:
    """Visual tokens of a job's two passes."""
    size = VideoSize(request["frames"], request["height"], request["width"])
    return 2 * size.latent.tokens


def fits_beside(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two jobs' requests may be made in one batch."""
    if one.get(_LORAS) != other.get(_LORAS):
        return False
    try:
        return fit_together(_plain(one), _plain(other))
    except RequestError:  # it will be told so when its turn comes
        return False


def _plain(request: Mapping[str, Any]) -> GenerateRequest:
    known = {name: value for name, value in request.items() if name != _LORAS}
    return GenerateRequest.from_dict(known)
