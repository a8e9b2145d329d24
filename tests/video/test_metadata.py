import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mochi.core.errors import VideoError
from mochi.video import gif
from mochi.video.metadata import pack, read_request, unpack
from mochi.video.reader import read_video
from mochi.video.writer import write_video

KINDS = ("a.mp4", "a.webm", "a.gif", "frames/")

HARD = {
    "emoji": "🐈‍⬛🧑🏽‍🚀" * 20,
    "long": "a cat, " * 1428 + "cat!",  # 10,000 characters
    "long emoji": "😀" * 10_000,
    "lines": "one\ntwo\r\nthree\rfour\ttab\v\f\x85\u2028\u2029",
    "quotes": "\"double\" 'single' `back` \\ \\n {brace} %s %d $HOME <b>&amp;</b> --",
    "ends": " spaces at both ends ",
    "nul": "before\0after\x01\x1b[31m",
    "letters": "Ünïcødé, Ελληνικά, עברית, العربية, हिन्दी, 中文, e\u0301 is not é",
    "surrogate": "\ud83d alone",
    "empty": "",
    "numbers": [0, -1, 2**63 - 1, 0.1, 1e-300, 5.0, True, None],
    "nested": {"a": {"b": [[], {}]}, "": 1},
}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
requests = st.dictionaries(st.text(), json_values, max_size=5)


@pytest.fixture(scope="module")
def plain_gif(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gif") / "a.gif"
    write_video(path, np.random.default_rng(0).integers(0, 256, (3, 24, 16, 3), np.uint8), 10)
    return path.read_bytes()


@pytest.mark.parametrize("name", KINDS)
def test_the_hardest_requests_come_back_identical(
    tmp_path: Path, clip: np.ndarray, name: str
) -> None:
    write_video(f"{tmp_path}/{name}", clip[:2], 30, HARD)
    back = read_request(tmp_path / name)
    assert back == HARD
    assert json.dumps(back) == json.dumps(HARD)  # also their order, and 5.0 from 5
    assert len(read_video(tmp_path / name)) == 2


@given(requests)
def test_any_request_comes_back_from_its_envelope(request: dict[str, object]) -> None:
    text = pack(request)
    assert text.isascii()
    assert "\n" not in text
    assert unpack(text) == request


@given(length=st.integers(0, 1100) | st.sampled_from([254, 255, 256, 510, 765, 70_000]))
def test_a_gif_takes_comments_of_any_length(
    tmp_path_factory: pytest.TempPathFactory, plain_gif: bytes, length: int
) -> None:
    path = tmp_path_factory.mktemp("comment") / "a.gif"
    path.write_bytes(plain_gif)
    gif.insert_comment(path, "x" * length)
    assert gif.comments(path) == ["x" * length]
    assert gif.is_complete(path)
    with Image.open(path) as commented:
        assert commented.info.get("comment", b"") == b"x" * length
        assert commented.n_frames == 3


def test_inserting_moves_what_follows_whole(plain_gif: bytes, tmp_path: Path, monkeypatch) -> None:
    """Also when the file is longer than what is moved at once."""
    (tmp_path / "one.gif").write_bytes(plain_gif)
    (tmp_path / "many.gif").write_bytes(plain_gif)
    gif.insert_comment(tmp_path / "one.gif", "comment" * 100)
    monkeypatch.setattr(gif, "_CHUNK", 37)
    gif.insert_comment(tmp_path / "many.gif", "comment" * 100)
    assert (tmp_path / "many.gif").read_bytes() == (tmp_path / "one.gif").read_bytes()


def test_the_content_says_what_a_file_is_not_its_name(tmp_path: Path, clip: np.ndarray) -> None:
    for kind, other in (("mp4", "gif"), ("webm", "mp4"), ("gif", "txt")):
        write_video(tmp_path / f"a.{kind}", clip[:2], 30, {"kind": kind})
        renamed = (tmp_path / f"a.{kind}").rename(tmp_path / f"renamed-{kind}.{other}")
        assert read_request(renamed) == {"kind": kind}


def test_one_png_frame_knows_its_request(tmp_path: Path, clip: np.ndarray) -> None:
    write_video(f"{tmp_path}/frames/", clip[:2], 30, HARD)
    assert read_request(tmp_path / "frames" / "frame_00001.png") == HARD


@pytest.mark.parametrize("name", KINDS)
def test_a_video_without_a_request_says_so(tmp_path: Path, clip: np.ndarray, name: str) -> None:
    write_video(f"{tmp_path}/{name}", clip[:2], 30)
    with pytest.raises(VideoError, match="holds no Mochi request"):
        read_request(tmp_path / name)


def test_other_peoples_comments_are_no_requests(tmp_path: Path, plain_gif: bytes) -> None:
    for text in ("made by hand", '{"prompt": "x"}', '{"mochi_request": [1]}', "[" * 100_000):
        path = tmp_path / "a.gif"
        path.write_bytes(plain_gif)
        gif.insert_comment(path, text)
        with pytest.raises(VideoError, match="holds no Mochi request"):
            read_request(path)


def test_a_film_from_elsewhere_has_no_request(real_clips: Path) -> None:
    with pytest.raises(VideoError, match="holds no Mochi request"):
        read_request(real_clips / "bikes.mp4")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n" * 50,
        b"GIF89a" + b"\x7f" * 30,
        b"GIF8",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 30,
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_damaged_files_are_one_clear_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(VideoError, match=r"a\.mp4"):
        read_request(tmp_path / "a.mp4")


def test_missing_files_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="there is no such file"):
        read_request(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="holds no Mochi request"):
        read_request(tmp_path)
