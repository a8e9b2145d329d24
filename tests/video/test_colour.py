from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from mochi.video.colour import to_yuv
from mochi.video.reader import read_video
from mochi.video.writer import write_video

# The shapes world's colours, and the corners of the cube.
COLOURS = [
    (230, 25, 25), (25, 205, 50), (40, 65, 240), (242, 230, 25), (150, 40, 205), (255, 140, 15),
    (8, 8, 8), (247, 247, 247), (128, 128, 128), (0, 115, 115),
    (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255),
]  # fmt: skip

KR, KB = 0.2126, 0.0722  # ITU-R BT.709, section 3


def planes(yuv: np.ndarray, height: int, width: int) -> tuple[np.ndarray, ...]:
    flat = yuv.reshape(-1).astype(np.float64)
    luma, chroma = height * width, height * width // 4
    shape = height // 2, width // 2
    return (
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(shape),
        flat[luma + chroma :].reshape(shape),
    )


def textbook_rgb(yuv: np.ndarray) -> np.ndarray:
    """The middle pixel of a plain 32 x 32 picture, by the formulas of BT.709 in limited range."""
    y, cb, cr = (plane[plane.shape[0] // 2, plane.shape[1] // 2] for plane in planes(yuv, 32, 32))
    luma, blue, red = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    r = luma + 2 * (1 - KR) * red
    b = luma + 2 * (1 - KB) * blue
    return 255 * np.array([r, (luma - KR * r - KB * b) / (1 - KR - KB), b])


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_plain_colours_come_back_by_two_routes(tmp_path: Path, kind: str) -> None:
    """By the reader, and by the textbook from the raw planes: neither hides the other's error."""
    frames = np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in COLOURS])
    write_video(tmp_path / f"a.{kind}", frames, 5, quality="best")
    back = read_video(tmp_path / f"a.{kind}")
    with av.open(str(tmp_path / f"a.{kind}")) as container:
        raw = [frame.to_ndarray() for frame in container.decode(video=0)]
    for colour, read, yuv in zip(COLOURS, back, raw, strict=True):
        assert np.abs(read[16, 16].astype(int) - colour).max() <= 3, colour
        assert np.abs(textbook_rgb(yuv) - colour).max() <= 3, colour


def test_conversion_is_the_textbook_to_within_rounding() -> None:
    for colour in COLOURS:
        picture = np.full((32, 32, 3), colour, np.uint8)
        frame = to_yuv(picture)
        r, g, b = np.array(colour) / 255
        luma = KR * r + (1 - KR - KB) * g + KB * b
        wanted = (
            16 + 219 * luma,
            128 + 112 * (b - luma) / (1 - KB),
            128 + 112 * (r - luma) / (1 - KR),
        )
        for plane, value in zip(planes(frame.to_ndarray(), 32, 32), wanted, strict=True):
            assert np.abs(plane - value).max() <= 0.6, colour


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_colour_edges_do_not_move(tmp_path: Path, clip: np.ndarray, kind: str) -> None:
    """A mirrored clip decodes to the mirrored clip: chroma sits where the file says it does."""
    write_video(tmp_path / f"a.{kind}", clip, 30, quality="best")
    write_video(tmp_path / f"b.{kind}", clip[:, :, ::-1], 30, quality="best")
    one = read_video(tmp_path / f"a.{kind}").astype(float)
    other = read_video(tmp_path / f"b.{kind}")[:, :, ::-1]
    assert np.mean((one - other) ** 2) < 6  # 40 dB; a quarter sample off costs 28


@pytest.mark.parametrize(("height", "matrix"), [(64, "bt601"), (720, "bt709")])
def test_untagged_files_are_read_by_their_height(
    plain_movie: Callable[..., Path], height: int, matrix: str
) -> None:
    """`plain_movie` converts by bt601 whatever the size, and does not say so."""
    frames = np.full((2, height, 64, 3), (40, 200, 60), np.uint8)
    read = read_video(plain_movie(frames))[0, height // 2, 32].astype(int)
    assert (np.abs(read - (40, 200, 60)).max() <= 3) == (matrix == "bt601")
