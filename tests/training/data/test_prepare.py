"""From clips to samples: the same numbers by two routes, whatever happens in between."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.training.data.conftest import TINY, Prepare
from tests.training.data.movies import TURNED, moving, write_captioned

from mochi.core.errors import OutputError, WeightsError
from mochi.core.latents import MOCHI_STATS, DitLatent
from mochi.model.encoder import Posterior
from mochi.pipeline.pipeline import Pipeline
from mochi.pipeline.roundtrip import to_pixels
from mochi.training.data import folder as folder_module
from mochi.training.data.buckets import Bucket
from mochi.training.data.clips import Skipped
from mochi.training.data.dataset import open_dataset
from mochi.training.data.prepare import Captioning
from mochi.video.reader import read_video


def contents(root: Path) -> dict[str, bytes]:
    """Everything that decides what a trainer sees."""
    kept = ("samples", "captions", "pictures", "sources")
    files = [path for name in kept for path in sorted((root / name).iterdir())]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in [*files, root / "index.jsonl"]}


class TestSamples:
    def test_latents_are_the_encoders(self, run: Prepare, pipe: Pipeline, clips: Path) -> None:
        data = open_dataset(run().folder)
        index = [sample.name for sample in data.samples].index("red.mp4")
        loaded = data.load(index)
        frames = read_video(clips / "red.mp4", (32, 32), fps=12, frames=13)
        with torch.no_grad():
            posterior = pipe.parts.encoder()(to_pixels(frames))
        mean = MOCHI_STATS.denormalize(DitLatent(loaded.mean_CTHW[None])).tensor
        torch.testing.assert_close(mean, posterior.mean, rtol=1e-4, atol=1e-4)
        # A draw is normalised as a draw: (mean + deviation * noise), then per channel.
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0))
        drawn = loaded.mean_CTHW + (0.5 * loaded.logvar_CTHW).exp() * noise[0]
        wanted = MOCHI_STATS.normalize(posterior.sample(torch.Generator().manual_seed(0))).tensor
        torch.testing.assert_close(drawn, wanted[0], rtol=1e-4, atol=1e-4)

    def test_features_are_the_text_encoders(self, run: Prepare, pipe: Pipeline) -> None:
        data = open_dataset(run().folder)
        for index, sample in enumerate(data.samples):
            found, wanted = data.load(index), pipe.parts.text().encode(sample.caption)
            assert torch.equal(found.text_NF, wanted.features[0, wanted.mask[0]])
            assert found.empty_text_NF.shape == (0, found.text_NF.shape[1])

    def test_what_is_told(self, run: Prepare, tmp_path: Path) -> None:
        report = run()
        assert [sample.name for sample in report.samples] == ["blue.mp4", "red.mp4", "white.mp4"]
        assert report.samples[1].caption == "a red square moves right"
        assert (report.made, report.skipped, report.buckets) == (3, (), {"13x32x32": 3})
        assert report.video_seconds == pytest.approx(3 * 13 / 12, abs=0.01)
        told = json.loads((tmp_path / "data" / "report.json").read_text())
        assert told["samples"] == 3
        assert told["video_seconds"] == pytest.approx(3.249)
        with Image.open(tmp_path / "data" / "contact_sheet.png") as sheet:
            assert sheet.height > 3 * 96
            assert np.asarray(sheet)[20, 20, 2] > 150, "the blue clip comes first"

    def test_one_video_alone(self, run: Prepare, clips: Path) -> None:
        for name in ("red", "white"):
            (clips / f"{name}.mp4").unlink()
        assert len(run().samples) == 1


class TestAgain:
    def test_nothing_is_done_twice(self, run: Prepare) -> None:
        first = run()
        before = {path: path.stat().st_mtime_ns for path in first.folder.glob("*/*")}
        again = run()
        assert (again.made, again.samples) == (0, first.samples)
        assert {path: path.stat().st_mtime_ns for path in first.folder.glob("*/*")} == before

    def test_a_new_clip_is_added_and_one_that_went_is_gone(self, run: Prepare, clips: Path) -> None:
        run()
        write_captioned(clips / "new.mp4", moving(colour=(0, 90, 0)), "a green square")
        (clips / "red.mp4").unlink()
        report = run()
        assert [sample.name for sample in report.samples] == ["blue.mp4", "new.mp4", "white.mp4"]
        assert report.made == 1

    def test_stopped_at_any_file_and_started_again(
        self, run: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("whole", workers=1)
        wanted = contents(tmp_path / "whole")
        replace = folder_module.os.replace
        for stop_at in range(1, 200):
            count = 0

            def stopping(source: Path, target: Path, stop_at: int = stop_at) -> None:
                nonlocal count
                count += 1
                if count == stop_at:
                    raise KeyboardInterrupt
                replace(source, target)

            with monkeypatch.context() as patch:
                patch.setattr(folder_module.os, "replace", stopping)
                try:
                    run(workers=1)
                    break
                except KeyboardInterrupt:
                    pass
            if stop_at % 4 == 0:  # each time from nothing, or going on with what is there
                shutil.rmtree(tmp_path / "data")
        run()
        assert stop_at > 5
        assert contents(tmp_path / "data") == wanted

    def test_a_disk_that_fills_loses_nothing_finished(
        self, run: Prepare, tmp_path: Path, small_files: None
    ) -> None:
        resource = pytest.importorskip("resource")
        with pytest.raises(OutputError, match="cannot be written"):
            run()
        assert not (tmp_path / "data" / "index.jsonl").exists()
        assert not list((tmp_path / "data").rglob("*.part"))
        with pytest.raises(WeightsError, match="run it again"):
            open_dataset(tmp_path / "data")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert len(run().samples) == 3

    def test_another_vae_is_refused(
        self, run: Prepare, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run()
        from mochi.training.data import prepare as module

        monkeypatch.setattr(module, "part_fingerprint", lambda files, part: "other")
        with pytest.raises(WeightsError, match="another VAE; choose a new folder"):
            run()

    def test_a_folder_with_other_things_is_refused(self, run: Prepare, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "thesis.txt").write_text("mine")
        with pytest.raises(OutputError, match=r"thesis\.txt"):
            run()

    def test_two_runs_at_once_are_refused(self, run: Prepare, tmp_path: Path) -> None:
        import fcntl

        (tmp_path / "data").mkdir()
        with (tmp_path / "data" / ".lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(OutputError, match="another run"):
                run()


class TestCutting:
    def test_scenes(self, run: Prepare, clips: Path) -> None:
        parts = [moving(20, colour=(200, 30, 30)), moving(16, colour=(30, 200, 30))]
        write_captioned(clips / "two.mp4", np.concatenate([*parts, moving(5)]), "two scenes")
        report = run(scenes=True)
        names = [sample.name for sample in report.samples if sample.name.startswith("two")]
        assert names == ["two.mp4@0", "two.mp4@20"]
        short = "too short: 5 frames at the wanted rate, 13 are needed"
        assert report.skipped == (Skipped("two.mp4@36", short),)
        whole = run("whole")
        assert [it.name for it in whole.samples if "two" in it.name] == ["two.mp4"]

    def test_several_from_one(self, run: Prepare, clips: Path) -> None:
        write_captioned(clips / "long.mp4", moving(50, width=64), "long")
        names = [sample.name for sample in run(take=3).samples]
        assert names[1:4] == ["long.mp4@0", "long.mp4@18", "long.mp4@37"]

    def test_each_clip_goes_to_the_bucket_that_suits_it(self, run: Prepare, clips: Path) -> None:
        write_captioned(clips / "wide.mp4", moving(25, 32, 64), "wide")
        write_captioned(clips / "tall.mp4", moving(19, 64, 32), "tall")
        shapes = (TINY, Bucket(25, 32, 64), Bucket(13, 48, 32), Bucket(19, 48, 32))
        found = {sample.name: sample.bucket for sample in run(buckets=shapes).samples}
        assert found["wide.mp4"] == "25x32x64"
        assert found["tall.mp4"] == "19x48x32"
        assert found["red.mp4"] == "13x32x32"

    def test_too_small_unless_enlarged(self, run: Prepare) -> None:
        from mochi.core.errors import VideoError

        with pytest.raises(VideoError, match="no sample could be made"):
            run(buckets=(Bucket(13, 48, 64),))
        report = run(buckets=(Bucket(13, 48, 64),), upscale=True)
        assert report.buckets == {"13x48x64": 3}


class TestLeftOut:
    def test_copies(self, run: Prepare, clips: Path) -> None:
        shutil.copy(clips / "red.mp4", clips / "same.mp4")
        (clips / "same.txt").write_text("something else")
        report = run()
        why = "is the same file as red.mp4, with another caption"
        assert report.skipped == (Skipped("same.mp4", why),)

    def test_the_same_frames_in_another_file(self, run: Prepare, clips: Path) -> None:
        raw = (clips / "red.mp4").read_bytes()
        (clips / "z.mp4").write_bytes(raw + b"\0\0\0\x08free")  # a box that holds nothing
        (clips / "z.txt").write_text("a red square moves right")
        report = run()
        assert report.skipped == (Skipped("z.mp4", "shows the same frames as red.mp4"),)
        assert len(report.samples) == 3

    def test_latents_that_are_no_numbers(
        self, run: Prepare, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = pipe.parts.encoder()
        layered = encoder.layered

        def failing(pixels, **options):  # type: ignore[no-untyped-def]
            found = layered(pixels, **options)
            red = pixels[0, 0].float().mean() > pixels[0, 2].float().mean() + 50
            return Posterior(found.mean * float("nan"), found.logvar) if red else found

        monkeypatch.setattr(encoder, "layered", failing)
        monkeypatch.setattr(type(pipe.parts), "release", lambda self, name: None)
        report = run()
        assert report.skipped == (Skipped("red.mp4@0", "its latents are NaN or infinite"),)
        assert [sample.name for sample in report.samples] == ["blue.mp4", "white.mp4"]

    def test_long_captions_are_cut_and_told(self, run: Prepare, clips: Path) -> None:
        (clips / "red.txt").write_text("red square " * 200)
        notes = dict(run().notes)
        assert notes["red.mp4"].startswith(
            "its caption has 401 tokens, more than are read; cut off"
        )
        assert notes == dict(run().notes), "also when it was encoded before"

    def test_odd_but_usable(self, run: Prepare, clips: Path) -> None:
        write_captioned(clips / "turned.mp4", moving(), "turned", matrix=TURNED)
        uneven = [0, 1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 20]
        write_captioned(clips / "uneven.mp4", moving(), "uneven", times=uneven)
        write_captioned(clips / "fast.mp4", moving(40), "fast", rate=24)
        write_captioned(clips / "hdr.mp4", moving(), "hdr", transfer=16)
        report = run()
        notes = dict(report.notes)
        assert notes["turned.mp4"] == "turned upright as the file says"
        assert notes["uneven.mp4"] == "variable frame rate, resampled to 12 by its times"
        assert notes["fast.mp4"] == "resampled from 24 to 12 frames per second"
        assert notes["hdr.mp4"].startswith("HDR (PQ), brought to the range")
        assert len(report.samples) == 7


def test_captions_by_table_and_for_all(run: Prepare, clips: Path) -> None:
    for text in clips.glob("*.txt"):
        text.unlink()
    rows = [{"file_name": "red.mp4", "text": "a red one"}, {"file_name": "blue", "text": "blue"}]
    rows.append({"file_name": "nobody.mp4", "text": "x"})
    (clips / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run(captioning=Captioning(common="some square"))
    captions = {sample.name: sample.caption for sample in report.samples}
    assert captions == {"blue.mp4": "blue", "red.mp4": "a red one", "white.mp4": "some square"}
    (skipped,) = report.skipped
    assert skipped.name == "nobody.mp4"
    assert "there is no such video" in skipped.reason
