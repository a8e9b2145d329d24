import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

import mochi.video.encode
from mochi.core.errors import OutputError, RequestError, VideoError
from mochi.video import writer as writer_module
from mochi.video.reader import probe, read_video
from mochi.video.writer import open_writer, write_video

KINDS = ("a.mp4", "a.webm", "a.gif", "frames/")
SOURCE = Path(writer_module.__file__).parents[2]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def target(tmp_path: Path, name: str) -> str:
    return f"{tmp_path}/{name}"  # a Path would lose the slash


def interrupted(path: str, *parts: np.ndarray, overwrite: bool = False) -> None:
    with open_writer(path, 30, (64, 64), overwrite=overwrite) as writer:
        for frames in parts:
            writer.write(frames)
        raise KeyboardInterrupt


def content(path: Path) -> bytes:
    if path.is_file():
        return path.read_bytes()
    return b"".join(file.name.encode() + file.read_bytes() for file in sorted(path.iterdir()))


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Top-level boxes of an mp4."""
    while data:
        size = int.from_bytes(data[:4], "big")
        yield data[4:8].decode(), data[8:size]
        data = data[size:]


def test_an_mp4_does_not_depend_on_what_memory_held_before(
    tmp_path: Path, clip: np.ndarray
) -> None:
    """glibc fills what it hands out with another byte each time."""
    np.save(tmp_path / "clip.npy", clip)
    code = "import numpy, sys; from mochi.video.writer import write_video; " + (
        "write_video(sys.argv[1], numpy.load(sys.argv[2]), 30)"
    )
    found = set()
    for byte in (0, 85, 170):
        path = tmp_path / f"{byte}.mp4"
        environment = os.environ | {"PYTHONPATH": str(SOURCE), "MALLOC_PERTURB_": str(byte)}
        command = [sys.executable, "-c", code, str(path), str(tmp_path / "clip.npy")]
        subprocess.run(command, env=environment, check=True, timeout=120)
        found.add(path.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "least"), [("a.mp4", 30), ("a.webm", 30), ("a.gif", 45), ("frames/", 99)]
)
def test_frames_come_back(tmp_path: Path, clip: np.ndarray, name: str, least: float) -> None:
    """30 dB is what 4:2:0 leaves of a small saturated disc; GIF and PNG lose (nearly) nothing."""
    write_video(target(tmp_path, name), clip, 30)
    back = read_video(tmp_path / name)
    assert back.shape == clip.shape
    assert psnr(back, clip) >= least


@pytest.mark.parametrize("name", KINDS)
def test_one_frame_at_a_time_or_all_at_once_gives_the_same_video(
    tmp_path: Path, clip: np.ndarray, name: str
) -> None:
    request = {"prompt": "a disc", "seed": 1}
    with open_writer(target(tmp_path, name), 30, (64, 64), request) as writer:
        for frame in clip[:4]:
            writer.write(frame)
        writer.write(clip[4:4])
        writer.write(clip[4:])
        assert writer.frames_written == len(clip)
    once = content(tmp_path / name)
    os.rename(tmp_path / name, tmp_path / "before")  # the name must not be inside
    write_video(target(tmp_path, f"other-{name}"), clip, 30, request)
    if name.endswith(".mp4"):  # x264 now and then codes a slice in another way
        again = read_video(tmp_path / f"other-{name}").astype(int)
        os.rename(tmp_path / "before", tmp_path / name)
        assert np.abs(again - read_video(tmp_path / name)).mean() < 0.5
    else:
        assert content(tmp_path / f"other-{name}") == once


def test_an_mp4_is_what_every_player_takes(tmp_path: Path, clip: np.ndarray) -> None:
    write_video(tmp_path / "a.mp4", clip, 24)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.profile) == ("h264", "yuv420p", "High")
        assert stream.average_rate == 24
        assert stream.frames == len(clip)
        tags = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        assert tags == (1, 1, 1, 1)
        times = [frame.time for frame in container.decode(stream)]
    assert np.allclose(times, np.arange(len(clip)) / 24)


def test_the_index_comes_before_the_pictures(tmp_path: Path, clip: np.ndarray) -> None:
    write_video(tmp_path / "a.mp4", clip, 30)
    top = dict(boxes((tmp_path / "a.mp4").read_bytes()))
    assert list(top).index("moov") < list(top).index("mdat")
    assert b"colrnclx" + struct.pack(">HHHB", 1, 1, 1, 0) in top["moov"]  # limited range


def test_a_webm_is_vp9_with_bt709(tmp_path: Path, clip: np.ndarray) -> None:
    write_video(tmp_path / "a.webm", clip, 30)
    with av.open(str(tmp_path / "a.webm")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("vp9", "yuv420p")
        assert (context.colorspace, context.color_range) == (1, 1)


def test_a_gif_loops_and_keeps_time(tmp_path: Path, clip: np.ndarray) -> None:
    from PIL import Image, ImageSequence

    write_video(tmp_path / "a.gif", clip[:7], 30, {"prompt": "x"})
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["loop"] == 0
        assert b"mochi_request" in image.info["comment"]
        delays = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert delays == [30, 40, 30, 30, 40, 30, 30]  # 200 ms for six thirtieths, and the last


def test_what_stands_still_in_a_gif_stays_the_same_colour(tmp_path: Path) -> None:
    still = np.random.default_rng(1).integers(100, 130, (32, 32, 3), dtype=np.uint8)
    frames = np.stack([still] * 5)
    frames[:, 8:16, 8:16] = np.random.default_rng(2).integers(0, 256, (5, 8, 8, 3))
    write_video(tmp_path / "a.gif", frames, 25)
    back = read_video(tmp_path / "a.gif")[:, 20:].astype(int)
    assert np.abs(np.diff(back, axis=0)).mean() < 1.5
    assert np.abs(back - still[20:]).mean() < 4


def test_png_frames_are_exact_and_numbered_as_asked(tmp_path: Path, noise: np.ndarray) -> None:
    write_video(tmp_path / "shots" / "s_%02d.png", noise, 12.5, {"seed": 3})
    names = sorted(path.name for path in (tmp_path / "shots").iterdir())
    assert names == ["request.json", *(f"s_{index:02d}.png" for index in range(len(noise)))]
    assert np.array_equal(read_video(tmp_path / "shots"), noise)
    record = json.loads((tmp_path / "shots" / "request.json").read_text())
    assert record == {"mochi_request": {"seed": 3}, "fps": "25/2"}


@pytest.mark.parametrize("name", ["a.gif", "frames/"])
def test_odd_sides_work_where_the_format_has_them(tmp_path: Path, name: str) -> None:
    frames = np.full((3, 33, 17, 3), 77, np.uint8)
    write_video(target(tmp_path, name), frames, 10)
    assert np.array_equal(read_video(tmp_path / name), frames)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("height", "width"), [(2, 2), (2, 400), (400, 2), (18, 50)])
def test_strange_shapes(tmp_path: Path, name: str, height: int, width: int) -> None:
    frames = np.full((3, height, width, 3), 120, np.uint8)
    write_video(target(tmp_path, name), frames, 10)
    assert np.abs(read_video(tmp_path / name).astype(int) - 120).max() <= 3


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "frames/"])
@pytest.mark.parametrize("fps", [0.5, 24000 / 1001, 240])
def test_strange_rates(tmp_path: Path, clip: np.ndarray, name: str, fps: float) -> None:
    write_video(target(tmp_path, name), clip[:5], fps)
    assert probe(tmp_path / name).fps == pytest.approx(fps, rel=2e-3)
    assert len(read_video(tmp_path / name, fps=fps)) == 5


def test_what_the_encoder_refuses_is_one_clear_error(
    tmp_path: Path, clip: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise av.error.ExternalError(-542398533, "Generic error in an external library")

    monkeypatch.setattr(mochi.video.encode, "to_yuv", refuse)
    with pytest.raises(VideoError, match="cannot be encoded: Generic error"):
        write_video(tmp_path / "a.mp4", clip, 30)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", KINDS)
def test_one_frame_is_a_video(tmp_path: Path, clip: np.ndarray, name: str) -> None:
    write_video(target(tmp_path, name), clip[:1], 30)
    assert read_video(tmp_path / name).shape == (1, 64, 64, 3)


def test_quality_is_worth_its_bytes(tmp_path: Path, real_clips: Path) -> None:
    frames = read_video(real_clips / "bikes.mp4", (96, 128), frames=13)
    found = []
    for quality in ("small", "high", "best"):
        path = tmp_path / f"{quality}.mp4"
        write_video(path, frames, 25, quality=quality)
        found.append((path.stat().st_size, psnr(read_video(path), frames)))
    assert found == sorted(found)
    assert found[1][1] > 36
    assert found[2][0] > 1.5 * found[0][0]


class TestNothingIsWritten:
    @pytest.mark.parametrize("name", KINDS)
    @pytest.mark.parametrize("after", [0, 1, 12])
    def test_when_interrupted(
        self, tmp_path: Path, clip: np.ndarray, name: str, after: int
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            interrupted(target(tmp_path, name), clip[:after])
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", KINDS)
    def test_without_a_frame(self, tmp_path: Path, name: str) -> None:
        with (
            pytest.raises(VideoError, match="no frame was written"),
            open_writer(target(tmp_path, name), 30, (64, 64)),
        ):
            pass
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", KINDS)
    def test_on_a_full_disk(
        self, tmp_path: Path, noise: np.ndarray, small_files: int, name: str
    ) -> None:
        with pytest.raises(OutputError, match="grew larger"):
            write_video(target(tmp_path, name), noise, 30)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
    def test_on_a_disk_that_is_full_at_the_last_step(
        self, tmp_path: Path, clip: np.ndarray, small_files: int, name: str
    ) -> None:
        """The request alone is more than the disk takes; it goes in at the end."""
        with pytest.raises(OutputError, match="grew larger"):
            write_video(target(tmp_path, name), clip[:2], 30, {"prompt": "x" * 6000})
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "bad",
        [
            np.zeros((2, 64, 64, 3), np.float32),
            np.zeros((2, 64, 48, 3), np.uint8),
            np.zeros((2, 3, 64, 64), np.uint8),
            np.zeros((64, 64), np.uint8),
            None,
        ],
    )
    def test_for_frames_of_another_kind(
        self, tmp_path: Path, clip: np.ndarray, bad: np.ndarray
    ) -> None:
        with pytest.raises(VideoError, match=r"uint8 \(frames, 64, 64, 3\) is expected"):
            interrupted(f"{tmp_path}/a.mp4", clip[:2], bad)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "request_", [{"x": float("nan")}, {"x": {1, 2}}, {"x": b"bytes"}, {(1, 2): 3}]
    )
    def test_for_a_request_that_is_not_json(
        self, tmp_path: Path, request_: dict[str, object]
    ) -> None:
        with pytest.raises(VideoError, match="request cannot be written"):
            open_writer(tmp_path / "a.mp4", 30, (64, 64), request_).__enter__()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            (("a.mov", 30, (64, 64)), "output"),
            (("a.mp4", 0, (64, 64)), "fps"),
            (("a.mp4", 30, (63, 64)), "height"),
            (("a.gif", 60, (64, 64)), "fps"),
        ],
    )
    def test_for_settings_that_the_format_cannot_hold(
        self, tmp_path: Path, arguments: tuple[str, float, tuple[int, int]], field: str
    ) -> None:
        name, fps, size = arguments
        with pytest.raises(RequestError) as caught:
            open_writer(tmp_path / name, fps, size).__enter__()
        assert caught.value.field == field
        assert list(tmp_path.iterdir()) == []

    def test_when_the_encoder_cannot_be_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(mochi.video.encode.av, "open", full)
        with pytest.raises(OutputError, match="disk is full"):
            open_writer(tmp_path / "a.mp4", 30, (64, 64)).__enter__()
        assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_caller_is_not_taken_for_one_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_writer(tmp_path / "a.mp4", 30, (64, 64)):
        raise FileNotFoundError(2, "weights.safetensors")


@pytest.mark.parametrize("name", KINDS)
def test_an_existing_result_survives_a_failure_and_yields_to_a_success(
    tmp_path: Path, clip: np.ndarray, name: str
) -> None:
    path = target(tmp_path, name)
    write_video(path, clip[:2], 30)
    before = content(tmp_path / name)
    with pytest.raises(OutputError, match="exists already"):
        write_video(path, clip, 30)
    with pytest.raises(KeyboardInterrupt):
        interrupted(path, clip, overwrite=True)
    assert content(tmp_path / name) == before
    write_video(path, clip[:3], 30, overwrite=True)
    assert len(read_video(tmp_path / name)) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == [name.rstrip("/")]


def test_two_writers_of_one_name(tmp_path: Path, clip: np.ndarray) -> None:
    with open_writer(tmp_path / "a.mp4", 30, (64, 64)) as first:
        first.write(clip[:6])
        with pytest.raises(OutputError, match="another run"):
            write_video(tmp_path / "a.mp4", clip, 30, overwrite=True)
        first.write(clip[6:])
    assert len(read_video(tmp_path / "a.mp4")) == len(clip)


def test_ctrl_c_in_the_middle(tmp_path: Path) -> None:
    """A real signal, to a real process, while it writes."""
    script = (
        "import signal, sys, numpy as np\n"
        "from mochi.video.writer import open_writer\n"
        # A shell that runs this in the background makes its children deaf to Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "frames = np.zeros((4, 64, 64, 3), np.uint8)\n"
        "with open_writer(sys.argv[1], 30, (64, 64)) as writer:\n"
        "    while True:\n"
        "        writer.write(frames)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "a.mp4")],
        env={"PYTHONPATH": str(SOURCE)},
        stderr=subprocess.PIPE,
    )
    part = tmp_path / ".a.mp4.mochi-part"
    try:
        while child.poll() is None and not (part.exists() and part.stat().st_size > 0):
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=120)
    finally:
        child.kill()
    assert b"KeyboardInterrupt" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "rounds"), [("a.mp4", 16), ("a.webm", 16), ("a.gif", 5)])
def test_frames_reach_the_disk_as_they_come(
    tmp_path: Path, noise: np.ndarray, name: str, rounds: int
) -> None:
    """But for the encoder's look ahead, and the last 256 KiB that FFmpeg gathers."""
    part = tmp_path / f".{name}.mochi-part"
    with open_writer(target(tmp_path, name), 30, (64, 64)) as writer:
        for _ in range(rounds):
            writer.write(noise)
        before_the_end = part.stat().st_size
    assert before_the_end >= 256 * 1024


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path, name: str) -> None:
    frames = np.full((20, 128, 128, 3), 90, np.uint8)  # 1 MB
    frames[:, 30:60, 30:60] = np.arange(20, dtype=np.uint8)[:, None, None, None] * 10
    process = psutil.Process()
    with open_writer(target(tmp_path, name), 30, (128, 128)) as writer:
        for _ in range(5):
            writer.write(frames)
        before = process.memory_info().rss
        for _ in range(25):
            writer.write(frames)
        growth = process.memory_info().rss - before
    assert growth < 12 * 2**20  # the frames are 25 MB
