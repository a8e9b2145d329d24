"""A prepared folder that is damaged is refused by the name of what is damaged."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.core.errors import RequestError, VideoError, WeightsError
from mochi.training.data.buckets import Bucket, automatic, choose_bucket, parse_buckets
from mochi.training.data.dataset import Sample, open_dataset
from mochi.training.data.folder import DataFolder

CAPTION = "a line\u2028inside"


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    """Two samples, as `prepare` leaves them."""
    folder = DataFolder(tmp_path)
    folder.write_json("dataset.json", {"version": 1, "space": "normalised", "settings": {}})
    for key in ("one", "two"):
        latents = torch.randn(12, 3, 4, 6)
        folder.write_tensors(folder.sample(key), {"mean": latents, "logvar": latents + 1}, {})
    folder.write_tensors(folder.caption(CAPTION), {"features": torch.randn(5, 8)}, {})
    folder.write_tensors(folder.caption(""), {"features": torch.zeros(0, 8)}, {})
    rows = [
        Sample(f"{key}.mp4", key, CAPTION, "13x32x48", 13, 32, 48, 1.0) for key in ("one", "two")
    ]
    folder.write_index(row.to_dict() for row in rows)
    return folder


def test_what_was_written_is_read(data: DataFolder) -> None:
    found = open_dataset(data.root)
    assert (len(found), found.buckets) == (2, (Bucket(13, 32, 48),))
    loaded = found.load(1)
    assert (loaded.name, found.samples[1].caption) == ("two.mp4", CAPTION)
    assert loaded.mean_CTHW.shape == (12, 3, 4, 6)
    assert (loaded.text_NF.shape, loaded.empty_text_NF.shape) == ((5, 8), (0, 8))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["mean", "logvar"])
def test_latents_that_are_no_numbers(data: DataFolder, which: str, bad: float) -> None:
    tensors = {"mean": torch.zeros(12, 3, 4, 6), "logvar": torch.zeros(12, 3, 4, 6)}
    tensors[which][3, 1, 2, 0] = bad
    data.write_tensors(data.sample("two"), tensors, {})
    found = open_dataset(data.root)
    found.load(0)
    with pytest.raises(WeightsError, match=rf"two\.mp4 cannot be used: .*{which} holds NaN"):
        found.load(1)


def test_latents_of_another_shape_or_lost(data: DataFolder) -> None:
    tensors = {"mean": torch.zeros(12, 3, 4, 4), "logvar": torch.zeros(12, 3, 4, 4)}
    data.write_tensors(data.sample("two"), tensors, {})
    data.sample("one").unlink()
    found = open_dataset(data.root)
    with pytest.raises(WeightsError, match=r"two\.mp4 .*\(12, 3, 4, 4\), not \(12, 3, 4, 6\)"):
        found.load(1)
    with pytest.raises(WeightsError, match=r"one\.mp4 cannot be used: .*No such file"):
        found.load(0)


def test_text_features_that_are_lost(data: DataFolder) -> None:
    data.caption(CAPTION).write_bytes(b"\0" * 20)
    with pytest.raises(WeightsError, match=r"one\.mp4 cannot be used"):
        open_dataset(data.root).load(0)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("dataset.json", "", "is damaged"),
        ("dataset.json", "[]", "is no JSON object"),
        ("dataset.json", '{"version": 9}', "is of version 9, this program reads 1"),
        ("index.jsonl", "", "holds no samples; its report.json says why"),
        ("index.jsonl", '{"name": 1}', "line 1 is no sample"),
        ("index.jsonl", '{"na', "is damaged"),
    ],
)
def test_broken_lists(data: DataFolder, name: str, content: str, what: str) -> None:
    (data.root / name).write_text(content)
    with pytest.raises(WeightsError, match=what):
        open_dataset(data.root)


def test_a_bucket_that_is_none(data: DataFolder) -> None:
    lines = (data.root / "index.jsonl").read_text().split("\n")
    row = json.loads(lines[1]) | {"bucket": "12x32x48"}
    (data.root / "index.jsonl").write_text(f"{lines[0]}\n{json.dumps(row)}\n")
    with pytest.raises(WeightsError, match="line 2: frames=12 is not 6k"):
        open_dataset(data.root)


def test_no_prepared_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="mochi prepare CLIPS -o DATA"):
        open_dataset(tmp_path)


class TestBuckets:
    def test_words(self) -> None:
        assert Bucket.parse("37x480x848") == Bucket(37, 480, 848)
        assert parse_buckets(["7x32x32", "7x32x32", "1x16x16"])[0] == Bucket(1, 16, 16)
        for text in ("", "37x480", "38x480x848", "37x481x848", "-1x16x16"):
            with pytest.raises(RequestError):
                Bucket.parse(text)

    def test_automatic_ones_have_about_as_many_pixels(self) -> None:
        found = automatic(37, 480, 848)
        assert Bucket(37, 480, 848) in found
        assert Bucket(37, 848, 480) in found
        assert all(0.94 < it.height * it.width / (480 * 848) < 1.06 for it in found)

    @given(st.integers(1, 200), st.integers(16, 2000), st.integers(16, 2000))
    def test_the_chosen_one_fits(self, frames: int, height: int, width: int) -> None:
        buckets = (*automatic(25, 64, 64), *automatic(13, 240, 432), Bucket(1, 480, 848))
        try:
            found = choose_bucket(buckets, frames, height, width)
        except VideoError:
            assert not any(
                b.frames <= frames and b.height <= height and b.width <= width for b in buckets
            )
        else:
            assert (found.frames <= frames, found.height <= height) == (True, True)
            assert found.width <= width
