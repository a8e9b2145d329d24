import math
import wave
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mochi.core.errors import RequestError, VideoError
from mochi.core.sizes import VideoSize
from mochi.video.endings import is_cut_off
from mochi.video.reader import iter_frames, probe, read_video
from mochi.video.writer import write_video

MakeMovie = Callable[..., Path]
KINDS = ("a.mp4", "a.webm", "a.gif", "frames/")
ONE = 1 << 16  # of a display matrix's 16.16 numbers


def levels(frames: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Each frame has the gray level 8 x its index: a frame says which one it is."""
    gray = 8 * np.arange(frames, dtype=np.uint8)
    return np.broadcast_to(gray[:, None, None, None], (frames, height, width, 3)).copy()


def which(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / 8) for frame in frames]


def quarters(height: int = 32, width: int = 64) -> np.ndarray:
    """Three equal frames whose quarters differ in colour."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (200, 40, 40)
    picture[: height // 2, width // 2 :] = (40, 200, 40)
    picture[height // 2 :, : width // 2] = (40, 40, 200)
    return np.stack([picture] * 3)


class TestRate:
    @pytest.mark.parametrize("name", KINDS)
    def test_its_own_rate_keeps_every_frame(self, tmp_path: Path, name: str) -> None:
        write_video(f"{tmp_path}/{name}", levels(25), 30)
        assert which(read_video(tmp_path / name)) == list(range(25))
        assert which(read_video(tmp_path / name, fps=30)) == list(range(25))

    @pytest.mark.parametrize("name", KINDS)
    def test_half_and_double(self, tmp_path: Path, name: str) -> None:
        write_video(f"{tmp_path}/{name}", levels(12), 30)
        assert which(read_video(tmp_path / name, fps=15)) == list(range(0, 12, 2))
        assert which(read_video(tmp_path / name, fps=60))[:9] == [0, 0, 1, 1, 2, 2, 3, 3, 4]

    def test_uneven_times_are_followed(self, plain_movie: MakeMovie) -> None:
        path = plain_movie(levels(4), times=[0, 1, 5, 6])
        assert which(read_video(path)) == [0, 1, 2, 3]
        assert which(read_video(path, fps=30)) == [0, 1, 1, 1, 1, 2, 3]

    def test_a_video_may_start_late(self, plain_movie: MakeMovie) -> None:
        path = plain_movie(levels(4), "late.webm", times=[30, 31, 32, 33])
        assert which(read_video(path, fps=30)) == [0, 1, 2, 3]


class TestSize:
    def test_a_wide_video_loses_its_sides(self, plain_movie: MakeMovie) -> None:
        frames = np.full((2, 32, 96, 3), 20, np.uint8)
        frames[:, :, 32:64] = 220
        found = read_video(plain_movie(frames), (16, 16))
        assert found.shape == (2, 16, 16, 3)
        assert found[:, :, 2:-2].min() > 200

    def test_a_video_size_says_all_three(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.mp4", levels(25, 48, 64), 30)
        found = read_video(tmp_path / "a.mp4", VideoSize(7, 32, 32), fps=15)
        assert found.shape == (7, 32, 32, 3)
        assert which(found) == [0, 2, 4, 6, 8, 10, 12]

    def test_pixels_that_are_not_square_are_made_so(self, plain_movie: MakeMovie) -> None:
        path = plain_movie(quarters(32, 32), aspect=Fraction(2))
        assert (probe(path).height, probe(path).width) == (32, 64)
        whole = read_video(path, (32, 64))
        assert whole[0, 4, 4].tolist() == pytest.approx([200, 40, 40], abs=6)
        assert whole[0, 4, 60].tolist() == pytest.approx([40, 200, 40], abs=6)

    @pytest.mark.parametrize(("height", "width"), [(0, 16), (16, -1), (16, 1.5), (math.nan, 16)])
    def test_sizes_that_cannot_be(self, tmp_path: Path, height: float, width: float) -> None:
        with pytest.raises(RequestError):
            read_video(tmp_path / "any.mp4", (height, width))  # type: ignore[arg-type]

    def test_height_without_width(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="width"):
            next(iter_frames(tmp_path / "any.mp4", height=16))


class TestOrientation:
    """ISO 14496-12: the matrix a b u c d v x y w sends (x, y) to (a x + c y, b x + d y)."""

    @pytest.mark.parametrize(
        ("matrix", "turn"),
        [
            ((ONE, 0, 0, ONE), lambda p: p),
            ((0, ONE, -ONE, 0), lambda p: np.rot90(p, -1)),  # a phone held upright
            ((-ONE, 0, 0, -ONE), lambda p: np.rot90(p, 2)),
            ((0, -ONE, ONE, 0), lambda p: np.rot90(p)),
            ((-ONE, 0, 0, ONE), np.fliplr),
            ((ONE, 0, 0, -ONE), np.flipud),
            ((0, ONE, ONE, 0), lambda p: p.transpose(1, 0, 2)),
            ((0, -ONE, -ONE, 0), lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
        ],
    )
    def test_all_eight(
        self,
        plain_movie: MakeMovie,
        matrix: tuple[int, int, int, int],
        turn: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        a, b, c, d = matrix
        frames = quarters()
        path = plain_movie(frames, matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30])
        found, wanted = read_video(path), turn(frames[0])
        assert found.shape[1:] == wanted.shape
        assert (
            np.abs(found[0].astype(int) - wanted).mean() < 5
        )  # the colours of an edge mix; the next orientation is 60 off
        info = probe(path)
        assert (info.height, info.width) == wanted.shape[:2]
        assert info.rotated == (matrix != (ONE, 0, 0, ONE))


class TestLength:
    def test_the_first_frames(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.mp4", levels(13), 30)
        assert which(read_video(tmp_path / "a.mp4", frames=7)) == list(range(7))

    def test_too_short_says_what_there_is(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.mp4", levels(12), 30)
        with pytest.raises(VideoError, match=r"has 12 frames, 13 are needed.*has 7"):
            read_video(tmp_path / "a.mp4", frames=13)
        with pytest.raises(VideoError, match=r"has 6 frames at 15 frames per second"):
            read_video(tmp_path / "a.mp4", VideoSize(13, 32, 32), fps=15)

    def test_too_large_for_the_limit(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.gif", levels(12), 30)
        frame_gib = 32 * 32 * 3 / 2**30
        with pytest.raises(VideoError, match="5 frames would fit"):
            read_video(tmp_path / "a.gif", limit_gib=5.5 * frame_gib)
        with pytest.raises(VideoError, match="5 frames would fit"):
            read_video(tmp_path / "a.gif", frames=6, limit_gib=5.5 * frame_gib)
        assert len(read_video(tmp_path / "a.gif", frames=5, limit_gib=5.5 * frame_gib)) == 5

    @pytest.mark.parametrize("frames", [0, -1, 1.5, math.inf])
    def test_counts_that_cannot_be(self, tmp_path: Path, frames: float) -> None:
        with pytest.raises(RequestError, match="frames"):
            read_video(tmp_path / "any.mp4", frames=frames)  # type: ignore[arg-type]


class TestNotAVideo:
    @pytest.mark.parametrize(
        "data",
        [
            b"just text\n" * 100,
            b"ffconcat version 1.0\nfile a.mp4\n",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n",
            b"\0" * 5000,
            np.random.default_rng(0).bytes(5000),
            b"GIF89a",
            b"\0\0\0\x18ftypisom\0\0\0\0isomiso2",
            b"\x1a\x45\xdf\xa3" + b"\xff" * 40,
        ],
    )
    @pytest.mark.parametrize("name", ["a.mp4", "a.txt", "a.m3u8"])
    def test_other_files(self, tmp_path: Path, clip: np.ndarray, data: bytes, name: str) -> None:
        """Playlists above all: they would lead to other files."""
        (tmp_path / "other").mkdir()
        path = tmp_path / "other" / name
        path.write_bytes(data)
        if name != "a.mp4":
            write_video(tmp_path / "other" / "a.mp4", clip[:2], 30)
        for read in (read_video, probe):
            with pytest.raises(VideoError, match="other") as caught:
                read(path)
            assert "\n" not in str(caught.value)

    def test_empty_missing_and_a_folder_without_frames(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").touch()
        with pytest.raises(VideoError, match="is empty"):
            read_video(tmp_path / "a.mp4")
        for missing in ("none.mp4", "http://localhost/a.mp4", "concat:a.mp4|b.mp4"):
            with pytest.raises(VideoError, match="no such file"):
                read_video(missing)
        with pytest.raises(VideoError, match="no PNG frames"):
            read_video(tmp_path)

    def test_sound_alone(self, tmp_path: Path) -> None:
        with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(b"\0\0" * 8000)
        with pytest.raises(VideoError, match="has no video, only audio"):
            read_video(tmp_path / "a.wav")
        with av.open(str(tmp_path / "a.mp4"), "w") as container:
            voice = container.add_stream("aac", rate=16000)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 16000, 0
            container.mux(voice.encode(silence))
            container.mux(voice.encode(None))
        with pytest.raises(VideoError, match="has no video, only audio"):
            probe(tmp_path / "a.mp4")

    def test_no_frames(self, tmp_path: Path) -> None:
        with av.open(str(tmp_path / "a.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
            container.start_encoding()
        for read in (read_video, probe):
            with pytest.raises(VideoError):
                read(tmp_path / "a.mp4")

    def test_a_folder_of_frames_with_a_damaged_or_foreign_one(self, tmp_path: Path) -> None:
        write_video(f"{tmp_path}/frames/", levels(3), 30)
        Image.new("RGB", (8, 8)).save(tmp_path / "frames" / "frame_00001.png")
        with pytest.raises(VideoError, match=r"frame_00001\.png: is 8x8, the first frame is 32x32"):
            read_video(tmp_path / "frames")
        (tmp_path / "frames" / "frame_00001.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
        with pytest.raises(VideoError, match=r"frame_00001\.png: is no picture"):
            read_video(tmp_path / "frames")


class TestCutOff:
    @pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "b.avi", "b.mov", "b.mkv"])
    def test_any_missing_end_is_noticed(
        self, tmp_path: Path, plain_movie: MakeMovie, noise: np.ndarray, name: str
    ) -> None:
        if name.startswith("a"):
            write_video(tmp_path / name, noise, 30, {"prompt": "x"})
        else:
            plain_movie(noise, name)
        data = (tmp_path / name).read_bytes()
        assert not is_cut_off(tmp_path / name)
        assert len(read_video(tmp_path / name)) == len(noise)
        for share in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99):
            (tmp_path / name).write_bytes(data[: int(len(data) * share)])
            with pytest.raises(VideoError):
                read_video(tmp_path / name)
        (tmp_path / name).write_bytes(data[:-1])
        with pytest.raises(VideoError, match="cut off"):
            probe(tmp_path / name)

    def test_bytes_after_the_end_are_no_harm(self, tmp_path: Path, clip: np.ndarray) -> None:
        for name in ("a.mp4", "a.webm", "a.gif"):
            write_video(tmp_path / name, clip, 30)
            with (tmp_path / name).open("ab") as stream:
                stream.write(b"\0" * 100)
            assert len(read_video(tmp_path / name)) == len(clip)

    def test_damage_in_the_middle_never_escapes_as_another_error(
        self, tmp_path: Path, noise: np.ndarray
    ) -> None:
        rng = np.random.default_rng(5)
        for name in ("a.mp4", "a.webm", "a.gif"):
            write_video(tmp_path / name, noise, 30)
            data = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
            for _ in range(12):
                broken = data.copy()
                at = rng.integers(0, len(data), 20)
                broken[at] = rng.integers(0, 256, 20)
                (tmp_path / name).write_bytes(broken.tobytes())
                with suppress(VideoError):
                    assert read_video(tmp_path / name).shape[-1] == 3


class TestProbe:
    @pytest.mark.parametrize(
        ("name", "codec"), list(zip(KINDS, ("h264", "vp9", "gif", "png"), strict=True))
    )
    def test_our_own(self, tmp_path: Path, clip: np.ndarray, name: str, codec: str) -> None:
        write_video(f"{tmp_path}/{name}", clip, 25)
        info = probe(tmp_path / name)
        assert (info.frames, info.height, info.width, info.codec) == (len(clip), 64, 64, codec)
        assert info.fps == pytest.approx(25)
        assert info.seconds == pytest.approx(len(clip) / 25)
        assert not info.has_audio
        assert not info.rotated

    def test_sound_is_noticed(self, plain_movie: MakeMovie) -> None:
        assert probe(plain_movie(levels(4), sound=True)).has_audio


class TestFilms:
    @pytest.mark.parametrize(
        ("name", "frames", "height", "width", "fps"),
        [
            ("bikes.mp4", 250, 272, 640, 25),
            ("bigbuckbunny.mp4", 132, 720, 1280, 25),
            ("carphone_pristine.mp4", 120, 144, 193, 30000 / 1001),  # 176 pixels, 12:11 wide
        ],
    )
    def test_what_they_are(
        self, real_clips: Path, name: str, frames: int, height: int, width: int, fps: float
    ) -> None:
        info = probe(real_clips / name)
        assert (info.frames, info.height, info.width) == (frames, height, width)
        assert info.fps == pytest.approx(fps)
        assert info.has_audio == (name == "bigbuckbunny.mp4")

    def test_a_training_clip(self, real_clips: Path) -> None:
        """Against PyAV's own conversion and Pillow, by another order of steps."""
        found = read_video(real_clips / "bikes.mp4", VideoSize(7, 64, 64), fps=12.5)
        assert found.shape == (7, 64, 64, 3)
        with av.open(str(real_clips / "bikes.mp4")) as container:
            images = [
                frame.to_image()
                for frame, _ in zip(container.decode(video=0), range(14), strict=False)
            ]
        side = (640 - 272) / 2
        wanted = [
            np.asarray(
                image.crop((side, 0, 640 - side, 272)).resize((64, 64), Image.Resampling.BOX)
            )
            for image in images[::2]
        ]
        assert np.abs(found.astype(int) - np.stack(wanted)).mean() < 4

    def test_the_second_route_is_sharp_enough_to_see_a_wrong_frame(self, real_clips: Path) -> None:
        found = read_video(real_clips / "bikes.mp4", (64, 64), frames=14).astype(int)
        assert np.abs(found[0] - found[13]).mean() > 4
