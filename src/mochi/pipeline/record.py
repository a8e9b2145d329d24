"""What a video says about itself: the request, and the model and version that answered it.

It holds no times and no machine names, so the same request gives the same file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mochi.core.errors import RequestError
from mochi.core.request import GenerateRequest


def make_record(request: GenerateRequest, **about: Any) -> dict[str, Any]:
    """The request and the version, with whatever else is known `about` the run; None is left out.

    Keys of today's runs: `model_hash`, `device`, `dtype`, `embeddings`, `latents` (hashes).
    """
    import mochi

    known = {key: value for key, value in about.items() if value is not None}
    return {"request": request.to_dict(), "mochi_version": mochi.__version__, **known}


def request_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """The request's fields inside a record.

    Raises:
        RequestError: the record holds no request: another program, or a later version, wrote it.
    """
    request = record.get("request")
    if not isinstance(request, dict):
        raise RequestError("record", sorted(record), "holds no request")
    return dict(request)
