from fractions import Fraction

import pytest

from mochi.core.errors import RequestError
from mochi.video.formats import check_fps, check_quality, check_size, target_of


@pytest.mark.parametrize(
    ("name", "kind", "path", "frame_name"),
    [
        ("a.mp4", "mp4", "a.mp4", None),
        ("dir.gif/A.MP4", "mp4", "dir.gif/A.MP4", None),
        ("a.webm", "webm", "a.webm", None),
        ("a.b.gif", "gif", "a.b.gif", None),
        ("frames/", "png", "frames", "frame_%05d.png"),
        ("frames", "png", "frames", "frame_%05d.png"),
        ("v1.2/", "png", "v1.2", "frame_%05d.png"),
        ("frames/shot_%03d.png", "png", "frames", "shot_%03d.png"),
        ("frames/%d.png", "png", "frames", "%d.png"),
    ],
)
def test_the_name_says_the_format(name: str, kind: str, path: str, frame_name: str | None) -> None:
    target = target_of(name)
    assert (target.kind, str(target.path)) == (kind, path)
    assert frame_name is None or target.frame_name == frame_name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a.mov",
        "a.mp5",
        "a.png",
        "a%s.png",
        "a%d%d.png",
        "a%3d%%.png",
        "..",
        "a.txt",
        "a\0b.mp4",
    ],
)
def test_other_names_are_refused_with_the_list(name: str) -> None:
    with pytest.raises(RequestError, match=r"\.mp4.*\.webm.*\.gif.*PNG"):
        target_of(name)


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(30, Fraction(30)), (30000 / 1001, Fraction(30000, 1001)), (0.5, Fraction(1, 2)), (240, 240)],
)
def test_rates_become_fractions(fps: float, rate: Fraction) -> None:
    assert check_fps(fps) == rate


@pytest.mark.parametrize(
    "fps", [0, -1, float("nan"), float("inf"), 241, 1e-9, "30", None, True, 1e300]
)
def test_rates_that_cannot_be(fps: object) -> None:
    with pytest.raises(RequestError, match="fps"):
        check_fps(fps)


def test_gif_plays_fifty_frames_a_second_at_most() -> None:
    assert check_fps(50, "gif") == 50
    with pytest.raises(RequestError, match="nearest: 50"):
        check_fps(60, "gif")


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_odd_sides_are_refused_with_their_neighbours(kind: str) -> None:
    check_size(64, 48, kind)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"height=33.*32 and 34"):
        check_size(33, 48, kind)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"width=1 .*nearest: 2"):
        check_size(64, 1, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_gif_and_png_take_odd_sides(kind: str) -> None:
    check_size(33, 1, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [0, -16, 1.5, float("nan"), 10**6])
def test_sides_that_cannot_be(side: object) -> None:
    with pytest.raises(RequestError, match="width"):
        check_size(64, side, "png")  # type: ignore[arg-type]


def test_an_unknown_quality_lists_what_there_is() -> None:
    assert check_quality("best") == "best"
    with pytest.raises(RequestError, match="small, high, best"):
        check_quality("4k")
