"""The request that made a video, inside the video.

It is JSON in an envelope, `{"mochi_request": {...}}`, where the format keeps a comment: the
`comment` tag of mp4 and WebM, the comment extension of GIF, a `Comment` text chunk in each PNG,
and `request.json` in a folder of frames. The comment is what other programs show too, and what
survives a change of container without re-encoding. The text is plain ASCII (JSON escapes the
rest), so no format's own idea of characters, line ends or lengths can change a prompt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mochi.core.errors import VideoError
from mochi.video import gif
from mochi.video.movie import open_movie
from mochi.video.output import RECORD_NAME

_ENVELOPE = "mochi_request"
PNG_KEYWORD = "Comment"


def pack(request: Mapping[str, Any] | None, **more: Any) -> str:
    """The envelope as text.

    Args:
        request: what `read_request` shall give back; None where there is none to keep.
        more: further entries of the envelope, beside the request.

    Raises:
        VideoError: a value is nothing that JSON can hold.
    """
    try:
        return json.dumps({_ENVELOPE: request, **more}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise VideoError(f"the request cannot be written into the file: {error}") from error


def unpack(text: str) -> dict[str, Any] | None:
    """The request in an envelope; None where this is no envelope or it is empty."""
    try:
        envelope = json.loads(text)
    except (ValueError, RecursionError):
        return None
    request = envelope.get(_ENVELOPE) if isinstance(envelope, dict) else None
    return request if isinstance(request, dict) else None


def read_request(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The request inside a file or folder that Mochi wrote, whatever its name says it is.

    Args:
        path: mp4, WebM, GIF, one PNG frame, or a folder of frames.

    Returns:
        The dict that was given to `open_writer`, equal to it as JSON.

    Raises:
        VideoError: there is no such file, it cannot be read, or holds no request.
    """
    file = Path(path)
    try:
        texts = _comments(file)
    except OSError as error:
        raise VideoError(f"{file}: cannot be read: {error.strerror or error}") from error
    for text in texts:
        if (request := unpack(text)) is not None:
            return request
    raise VideoError(f"{file}: holds no Mochi request")


def _comments(file: Path) -> list[str]:
    """Every comment in a file, by what its first bytes say it is."""
    if not file.exists():
        raise VideoError(f"{file}: there is no such file")
    if file.is_dir():
        record = file / RECORD_NAME
        return [record.read_text("utf-8", "replace")] if record.is_file() else []
    with file.open("rb") as stream:
        start = stream.read(8)
    if start.startswith(b"GIF8"):
        return gif.comments(file)
    if start == b"\x89PNG\r\n\x1a\n":
        return _png_comments(file)
    with open_movie(file) as container:
        return [text for key, text in container.metadata.items() if key.lower() == "comment"]


def _png_comments(file: Path) -> list[str]:
    try:
        with Image.open(file) as picture:
            text = picture.info.get(PNG_KEYWORD)
    except (ValueError, SyntaxError) as error:  # Pillow's words for a damaged chunk
        raise VideoError(f"{file}: is a damaged PNG: {error}") from error
    return [text] if isinstance(text, str) else []
