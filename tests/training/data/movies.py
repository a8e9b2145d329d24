"""Small videos for the preparation to read, some of them odd."""

import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ONE = 1 << 16  # of a display matrix's 16.16 numbers
TURNED = [0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30]
BT2020, PQ, HLG = 9, 16, 18


def moving(
    frames: int = 13, height: int = 32, width: int = 32, colour: Sequence[int] = (220, 40, 40)
) -> np.ndarray:
    """A bright bar moves over a plain colour."""
    video = np.empty((frames, height, width, 3), np.uint8)
    video[:] = colour
    for index, picture in enumerate(video):
        at = index * (width - 6) // max(1, frames - 1)
        picture[:, at : at + 6] = 240
    return video


def write_movie(
    path: Path,
    video: np.ndarray,
    rate: int = 12,
    times: Sequence[int] | None = None,
    matrix: list[int] | None = None,
    transfer: int | None = None,
) -> Path:
    """Any container that its name says; `times` in frames make the rate variable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
        stream = container.add_stream(codec, rate=rate, options={"crf": "4"})
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p" if transfer is None else "yuv420p10le"
        stream.codec_context.time_base = Fraction(1, rate)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if transfer is not None:
            context = stream.codec_context
            context.color_trc, context.color_primaries, context.colorspace = (
                transfer,
                BT2020,
                BT2020,
            )
        for index, picture in enumerate(video):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = times[index] if times else index
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_captioned(path: Path, video: np.ndarray, caption: str, **options: object) -> Path:
    write_movie(path, video, **options)  # type: ignore[arg-type]
    path.with_suffix(".txt").write_text(caption + "\n", "utf-8")
    return path


def write_sound(path: Path) -> Path:
    """A file of sound in a container of video."""
    with av.open(str(path), "w", format="mp4") as container:
        voice = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate, silence.pts = 16000, 0
        container.mux(voice.encode(silence))
        container.mux(voice.encode(None))
    return path


def write_wave(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    return path
