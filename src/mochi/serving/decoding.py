"""Pictures of a video that a stranger sent, made by a process that may take little and do less.

The child limits itself before it opens the file: memory, processor time, the size of what it
writes, files that are open. A video that breaks it breaks nothing else.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from mochi.core.errors import MochiError, VideoError

MAX_PIXELS = 4096 * 2304
MAX_SECONDS = 600.0
MAX_FRAMES = 20_000
MEMORY_BYTES = 3 * 2**30
CPU_SECONDS = 60
_WALL_SECONDS = 120
_WRITTEN_BYTES = 512 * 2**20
_OPEN_FILES = 64
_REFUSED = 3


def decode_apart(variant: str, video: Path, made: Path) -> None:
    """Make a variant of an uploaded video at `made`.

    Raises:
        VideoError: it is too large or too long, cannot be read, or broke its reader.
    """
    command = [sys.executable, "-m", "mochi.serving.decoding", variant, str(video), str(made)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise VideoError("it takes too long to read") from None
    if done.returncode == _REFUSED:
        raise VideoError(done.stdout.decode(errors="replace").strip()[:300])
    if done.returncode:
        raise VideoError("it takes too much to read, or breaks its reader")


def limit_this_process() -> None:
    """Take away from this process what a hostile video could use."""
    for what, most in (
        (resource.RLIMIT_DATA, MEMORY_BYTES),  # not RLIMIT_AS: CUDA is gigabytes of libraries
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, _WRITTEN_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def check_size(video: Path) -> None:
    """Refuse what its own head says is too much, before a frame is decoded.

    Raises:
        VideoError: with the rule.
    """
    from mochi.video.reader import probe

    info = probe(video)
    if info.height * info.width > MAX_PIXELS:
        raise VideoError(f"{info.width}x{info.height} is more than {MAX_PIXELS:,} pixels")
    if info.seconds > MAX_SECONDS or info.frames > MAX_FRAMES:
        raise VideoError(f"it is longer than {MAX_SECONDS:g} s or {MAX_FRAMES:,} frames")


def main(variant: str, video: Path, made: Path) -> int:
    """The child: the exit code says how it went, stdout why not."""
    limit_this_process()
    from mochi.serving.pictures import MAKERS

    try:
        check_size(video)
        MAKERS[variant](video, made)
    except (MochiError, MemoryError, OSError) as error:
        known = isinstance(error, MochiError)
        sys.stdout.write(str(error) if known else "it takes too much to read")
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
