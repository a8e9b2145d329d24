"""Bytes of a blob as an answer, whole or in a range (RFC 9110)."""

from __future__ import annotations

import re
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from mochi.serving.blobs import CHUNK_BYTES, Blobs
from mochi.serving.problems import not_found

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def send(
    request: Request,
    blobs: Blobs,
    key: str,
    *,
    media_type: str,
    etag: str,
    name: str,
    attachment: bool,
) -> Response:
    """The blob, or the one range of it that is asked for; several ranges are answered with all.

    Raises:
        Problem: 404, the bytes are gone.
    """
    size = blobs.size(key)
    if size is None:
        raise not_found("file")
    kind = "attachment" if attachment else "inline"
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": f'"{etag}"',
        "Cache-Control": "private, max-age=3600",
        "Content-Disposition": f"{kind}; filename*=UTF-8''{quote(name)}",
    }
    if f'"{etag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    wanted = _range(request, size, etag)
    if wanted is None:
        start, stop, status = 0, size, 200
    elif wanted[0] >= wanted[1]:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    else:
        (start, stop), status = wanted, 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    pieces = blobs.read(key, start, stop)
    if stop - start <= CHUNK_BYTES:  # one piece: a thread for each would take longer than it
        return Response(b"".join(pieces), status, headers, media_type)
    headers["Content-Length"] = str(stop - start)
    return StreamingResponse(pieces, status, headers, media_type)


def _range(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """Start and stop; None for everything, an empty range for one that cannot be."""
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    condition = request.headers.get("if-range")
    if match is None or match.groups() == ("", "") or condition not in (None, f'"{etag}"'):
        return None
    first, last = match.groups()
    if not first:
        return (max(0, size - int(last)), size) if int(last) else (0, 0)
    stop = size if not last else min(size, int(last) + 1)
    return int(first), stop
