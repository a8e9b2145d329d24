"""A whole video looked through, and parts taken out of it."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mochi.core.errors import VideoError
from mochi.video import hdr
from mochi.video.reader import probe, read_video
from mochi.video.scenes import Differences, cuts, difference
from mochi.video.sniff import is_movie
from mochi.video.spans import Span, read_spans, survey
from mochi.video.writer import write_video

MakeMovie = Callable[..., Path]


def levels(frames: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Each frame has the gray level 4 x its index."""
    gray = 4 * np.arange(frames, dtype=np.uint8)
    return np.broadcast_to(gray[:, None, None, None], (frames, height, width, 3)).copy()


class TestSpans:
    @pytest.mark.parametrize("fps", [30, 15, 60])
    def test_parts_are_those_of_the_whole(self, tmp_path: Path, fps: int) -> None:
        write_video(tmp_path / "a.mp4", levels(40), 30)
        spans = [Span(0, 5, 32, 32), Span(5, 3, 16, 32), Span(11, 7, 32, 16)]
        for span, part in read_spans(tmp_path / "a.mp4", spans, fps):
            whole = read_video(tmp_path / "a.mp4", (span.height, span.width), fps=fps)
            assert np.array_equal(part, whole[span.start : span.start + span.frames])

    def test_a_part_beyond_the_end(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.mp4", levels(10), 30)
        with pytest.raises(VideoError, match="ends at frame 10"):
            list(read_spans(tmp_path / "a.mp4", [Span(6, 7, 32, 32)], 30))

    def test_a_survey_counts_at_the_wanted_rate(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.mp4", levels(40, 32, 48), 20)
        seen = survey(tmp_path / "a.mp4", 30)
        assert (seen.frames, seen.height, seen.width, seen.fps) == (60, 32, 48, 20)
        assert (seen.uneven, seen.rotated, seen.transfer) == (False, False, "")
        assert seen.scenes == ((0, 60),)
        assert survey(tmp_path / "a.mp4", 30, limit=13).frames == 13

    def test_uneven_times_are_noticed(self, plain_movie: MakeMovie) -> None:
        path = plain_movie(levels(6), times=[0, 1, 2, 5, 6, 9])
        assert survey(path, 30).uneven


class TestScenes:
    def test_cuts_are_found_at_their_frame(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        scenes = [
            np.clip(rng.integers(0, 256, 3) + rng.integers(-9, 9, (n, 48, 64, 3)), 0, 255)
            for n in (25, 31, 40)
        ]
        video = np.concatenate(scenes).astype(np.uint8)
        write_video(tmp_path / "a.mp4", video, 30)
        found = survey(tmp_path / "a.mp4", 30, cut=True)
        assert found.scenes == ((0, 25), (25, 31), (56, 40))
        slower = survey(tmp_path / "a.mp4", 15, cut=True)
        assert [start for start, _ in slower.scenes] == [0, 13, 28]

    @pytest.mark.parametrize(
        ("name", "begins"),
        [
            ("bikes.mp4", [0, 30, 76, 137, 187, 242]),  # looked at: each is another place
            ("carphone_pristine.mp4", [0]),
        ],
    )
    def test_real_film(self, real_clips: Path, name: str, begins: list[int]) -> None:
        path = real_clips / name
        found = survey(path, Fraction(probe(path).fps).limit_denominator(1001), cut=True)
        assert [start for start, _ in found.scenes] == begins

    def test_motion_and_flicker_are_none(self) -> None:
        found = Differences()
        rng = np.random.default_rng(1)
        scenery = rng.integers(0, 256, (36, 400, 3), dtype=np.uint8)
        for start in range(60):  # a fast pan: all pixels change at every frame
            found.add(start, scenery[:, 5 * start : 5 * start + 64])
        assert cuts(found, 5) == []

    def test_the_difference_is_a_distance(self) -> None:
        black, white = np.zeros((36, 64, 3), np.uint8), np.full((36, 64, 3), 255, np.uint8)
        assert (difference(black, black), difference(black, white)) == (0, 1)
        assert difference(black, white) == difference(white, black)


class TestHdr:
    def test_known_light(self) -> None:
        """Points of the curves that BT.2100 and BT.2408 name: 58 % PQ and 75 % HLG are white."""
        assert hdr.pq_light(np.array([0.0, 1.0])) == pytest.approx([0, 10_000 / 203])
        assert hdr.pq_light(np.array([0.5807])) == pytest.approx([1.0], rel=2e-3)
        assert hdr.hlg_light(np.array([0.0, 0.5, 1.0])) == pytest.approx([0, 1 / 12, 1], abs=1e-6)

    @pytest.mark.parametrize(("transfer", "white"), [(hdr.PQ, 0.5807), (hdr.HLG, 0.75)])
    def test_gray_stays_gray_and_white_is_nearly_white(self, transfer: int, white: float) -> None:
        signal = np.linspace(0, white, 9)
        ramp = np.broadcast_to((signal * 65535).astype(np.uint16)[:, None, None], (9, 1, 3))
        mapped = hdr.tone_mapped(ramp.copy(), transfer).astype(int)
        assert np.ptp(mapped, axis=-1).max() <= 1
        assert (np.diff(mapped[:, 0, 0]) > 0).all()
        assert 240 <= mapped[-1, 0, 0] <= 250
        brightest = hdr.tone_mapped(np.full((1, 1, 3), 65535, np.uint16), transfer)
        assert brightest.min() == 255

    def test_what_is_bright_keeps_its_hue(self) -> None:
        light = np.array([[[4.0, 2.0, 0.4]]], np.float32)
        small = hdr.compressed(light)
        assert small.max() <= 1
        assert small / small.max() == pytest.approx(light / light.max(), rel=1e-5)


def test_content_decides_what_is_a_movie(tmp_path: Path, plain_movie: MakeMovie) -> None:
    for name in ("a.mp4", "a.webm", "a.gif"):
        write_video(tmp_path / name, levels(7), 30)
        (tmp_path / "x.bin").write_bytes((tmp_path / name).read_bytes())
        assert is_movie(tmp_path / "x.bin"), name
    assert is_movie(plain_movie(levels(4), "a.mkv"))
    assert is_movie(plain_movie(levels(4), "a.avi"))
    assert is_movie(plain_movie(levels(4), "a.mov"))
    (tmp_path / "y.mp4").write_bytes(b"RIFF1234WAVEfmt ")
    assert not is_movie(tmp_path / "y.mp4")
    (tmp_path / "y.mp4").write_bytes(b"\0\0\0\x18ftypheic")
    assert not is_movie(tmp_path / "y.mp4")
    assert probe(tmp_path / "a.mp4").transfer == ""
