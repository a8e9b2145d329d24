"""`--preview`: a picture of the video as it stands, replaced after every step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mochi.core.errors import OutputError, RequestError
from mochi.core.events import Event, OnEvent, StepDone

_HEIGHT = 240
_SHOWN_FRAMES = 6


@contextmanager
def preview_to(path: Path | None, on_event: OnEvent, overwrite: bool) -> Iterator[OnEvent]:
    """A listener that also keeps a picture at `path`; with no path, `on_event` itself.

    The picture is whole at any time. When the run fails it goes.

    Raises:
        RequestError: not a .png.
        OutputError: it exists without `overwrite`, or cannot be written.
    """
    if path is None:
        yield on_event
        return
    if path.suffix.lower() != ".png":
        raise RequestError("preview", str(path), "is not a .png", str(path.with_suffix(".png")))
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; pass --overwrite to replace it")

    def listen(event: Event) -> None:
        on_event(event)
        if isinstance(event, StepDone) and event.preview is not None:
            _draw(path, event)

    try:
        yield listen
    except BaseException:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def _draw(path: Path, event: StepDone) -> None:
    """Some frames of the clip in a row, enlarged to a height that can be seen."""
    import numpy as np
    from PIL import Image

    assert event.preview is not None
    frames = event.preview()
    chosen = np.linspace(0, len(frames) - 1, min(_SHOWN_FRAMES, len(frames))).round().astype(int)
    strip = np.concatenate([frames[index] for index in chosen], axis=1)
    times = max(1, _HEIGHT // strip.shape[0])
    large = strip.repeat(times, axis=0).repeat(times, axis=1)
    part = path.with_name(f".{path.name}.mochi-part")
    try:
        Image.fromarray(large).save(part, format="PNG")
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
