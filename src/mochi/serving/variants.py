"""Pictures and copies of a finished video, made when somebody first asks, then kept beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mochi.core.errors import VideoError
from mochi.serving.decoding import decode_apart
from mochi.serving.jobs import new_id
from mochi.serving.pictures import MAKERS
from mochi.serving.problems import Problem
from mochi.serving.services import Services
from mochi.serving.store.files import StoredFile

TYPES = {
    "gif": "image/gif",
    "thumbnail": "image/png",
    "last_frame": "image/png",
    "spritesheet": "image/png",
}
_PATIENCE_SECONDS = 10.0
_making = threading.Lock()  # one at a time: decoding is memory, and readers can wait
_making_uploads = threading.Lock()  # which may take minutes, and hold up nobody else


def variant_key(services: Services, file: StoredFile, variant: str) -> str:
    """The key of a variant in the blobs, which is there when this returns.

    Raises:
        VideoError: the video cannot be read.
        OutputError: the variant cannot be stored.
        Problem: 503, others' uploads are being read.
    """
    key = f"{file.id}.{variant}"
    if services.blobs.size(key) is not None:
        return key
    with _turn(file), _local_copy(services, file) as video:
        if services.blobs.size(key) is None:
            made = services.work / f"{new_id()}.{'gif' if variant == 'gif' else 'png'}"
            try:
                _make(file, variant, video, made)
                services.blobs.put(key, made)
                if services.files.get(file.id) is None:  # deleted meanwhile
                    services.blobs.delete(file.id)
            finally:
                made.unlink(missing_ok=True)
    return key


@contextmanager
def _turn(file: StoredFile) -> Iterator[None]:
    lock = _making if file.prediction is not None else _making_uploads
    if not lock.acquire(timeout=-1 if lock is _making else _PATIENCE_SECONDS):
        raise Problem(503, "other uploads are being read", headers={"Retry-After": "10"})
    try:
        yield
    finally:
        lock.release()


def _make(file: StoredFile, variant: str, video: Path, made: Path) -> None:
    """Our own videos are read here; what somebody sent is read by another process."""
    try:
        if file.prediction is None:
            decode_apart(variant, video, made)
        else:
            MAKERS[variant](video, made)
    except VideoError as error:  # where our folders are is nobody's business
        raise VideoError(str(error).replace(f"{video}: ", "")) from None


@contextmanager
def _local_copy(services: Services, file: StoredFile) -> Iterator[Path]:
    path = services.work / f"{new_id()}.mp4"
    try:
        with path.open("wb") as stream:
            for piece in services.blobs.read(file.id, 0, file.size):
                stream.write(piece)
        yield path
    finally:
        with suppress(OSError):
            path.unlink()
