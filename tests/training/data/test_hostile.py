"""Clips and captions that cannot be used: each is named with its reason, the rest goes on."""

from pathlib import Path

import pytest
from tests.training.data.conftest import Prepare
from tests.training.data.movies import moving, write_captioned, write_movie, write_sound, write_wave

from mochi.core.errors import MochiError, RequestError, VideoError
from mochi.training.data.clips import find_clips


def test_every_kind_of_bad_file(run: Prepare, clips: Path) -> None:
    whole = write_captioned(clips / "whole.mp4", moving(40), "whole").read_bytes()
    (clips / "empty.mp4").write_bytes(b"")
    (clips / "text.mp4").write_text("this is no video")
    (clips / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (clips / "cut.txt").write_text("cut")
    broken = bytearray(whole)
    middle = whole.index(b"mdat") + 4
    broken[middle : middle + 400] = bytes(400)
    (clips / "broken.mp4").write_bytes(broken)
    (clips / "broken.txt").write_text("broken")
    write_sound(clips / "sound.mp4")
    (clips / "sound.txt").write_text("sound")
    write_captioned(clips / "short.mp4", moving(5), "short")
    write_captioned(clips / "small.mp4", moving(13, 16, 16), "small")
    write_wave(clips / "song.wav")
    (clips / "notes.md").write_text("not for you")
    (clips / ".hidden.mp4").write_bytes(whole)
    report = run()
    why = {skipped.name: skipped.reason for skipped in report.skipped}
    assert set(why) == {
        *("empty.mp4", "text.mp4", "cut.mp4", "broken.mp4", "sound.mp4", "short.mp4", "small.mp4"),
    }
    assert why["empty.mp4"] == "is empty"
    assert why["text.mp4"] == "is no video"
    assert "is cut off" in why["cut.mp4"]
    assert "damaged" in why["broken.mp4"]
    assert "has no video, only audio" in why["sound.mp4"]
    assert why["short.mp4"] == "too short: 5 frames at the wanted rate, 13 are needed"
    assert why["small.mp4"].startswith("too small: 16x16, at least 32x32 is needed")
    assert len(report.samples) == 4


def test_every_kind_of_bad_caption(run: Prepare, clips: Path) -> None:
    for name in ("none", "blank", "latin", "half", "huge"):
        write_movie(clips / f"{name}.mp4", moving(colour=(20 * len(name), 9, ord(name[0]))))
    (clips / "blank.txt").write_text(" \n\t\n")
    (clips / "latin.txt").write_bytes("ein Käse".encode("latin-1"))
    (clips / "half.txt").write_bytes(b"\xed\xa0\x80")
    (clips / "huge.txt").write_text("x" * 20_000)
    why = {skipped.name: skipped.reason for skipped in run().skipped}
    assert "has no caption: there is no none.txt" in why["none.mp4"]
    assert why["blank.mp4"] == "its caption blank.txt is empty"
    assert why["latin.mp4"] == "its caption latin.txt is not UTF-8 (byte 6); save it as UTF-8"
    assert "is not UTF-8" in why["half.mp4"]
    assert "at most 10000" in why["huge.mp4"]


def test_two_clips_with_one_name(run: Prepare, clips: Path) -> None:
    write_movie(clips / "red.webm", moving(colour=(9, 9, 9)))
    (clips / "below").mkdir()
    write_captioned(clips / "below" / "red.mp4", moving(colour=(0, 99, 0)), "another red")
    report = run()
    why = {skipped.name: skipped.reason for skipped in report.skipped}
    assert set(why) == {"red.mp4", "red.webm"}
    assert "red.mp4 and red.webm have one name" in why["red.mp4"]
    assert "below/red.mp4" in [sample.name for sample in report.samples]
    (clips / "red.mp4.txt").write_text("the mp4")
    (clips / "red.webm.txt").write_text("the webm")
    captions = {sample.name: sample.caption for sample in run().samples}
    assert (captions["red.mp4"], captions["red.webm"]) == ("the mp4", "the webm")


def test_no_videos_at_all(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(RequestError, match="holds no videos"):
        find_clips(tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        find_clips(tmp_path / "nowhere")


def test_none_that_can_be_used(run: Prepare, clips: Path, tmp_path: Path) -> None:
    for text in clips.glob("*.txt"):
        text.unlink()
    with pytest.raises(VideoError, match=r"no sample could be made; .*report\.json says why"):
        run()
    assert (tmp_path / "data" / "report.json").is_file()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("captions.csv", b"file,caption\nred.mp4,\xff\xfe", "not UTF-8"),
        ("captions.csv", b"video,words\nred.mp4,a", "line 2: has no column caption"),
        ("captions.jsonl", b'{"file": "red.mp4"', "line 1: is no JSON"),
        ("captions.jsonl", b"[1]\n", "line 1: is no JSON object"),
        ("captions.jsonl", b'{"file": 3, "caption": "x"}', "must be text"),
    ],
)
def test_tables_that_cannot_be_read(clips: Path, name: str, content: bytes, what: str) -> None:
    (clips / name).write_bytes(content)
    with pytest.raises(MochiError, match=what):
        find_clips(clips)


def test_two_tables(clips: Path) -> None:
    for name in ("captions.csv", "metadata.csv"):
        (clips / name).write_text("file,caption\n")
    with pytest.raises(RequestError, match="several tables"):
        find_clips(clips)


def test_a_table_that_contradicts_itself(clips: Path) -> None:
    rows = "file,caption\nred.mp4,one\nred.mp4,two\nblue.mp4,a\nblue.mp4,a\nwhite.mp4,\n"
    (clips / "captions.csv").write_text(rows)
    found = find_clips(clips)
    assert [clip.name for clip in found.clips] == ["blue.mp4"]
    why = {skipped.name: skipped.reason for skipped in found.skipped}
    assert why["red.mp4"] == "has several captions in captions.csv"
    assert why["white.mp4"] == "its caption in captions.csv is empty"
