"""Text features: a batch as a value, saved and loaded, and files that are broken."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mochi.core.errors import OutputError, RequestError, WeightsError
from mochi.text.features import TextFeatures


def some(dtype: torch.dtype = torch.float32) -> TextFeatures:
    features = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    mask = torch.arange(5) < torch.tensor([[2], [0], [5]])
    return TextFeatures(features, mask, (2, 0, 9), ("", "", 'cut "here": ünïcode'))


def equal(a: TextFeatures, b: TextFeatures) -> bool:
    return (
        torch.equal(a.features, b.features)
        and a.features.dtype == b.features.dtype
        and torch.equal(a.mask, b.mask)
        and (a.token_counts, a.truncated) == (b.token_counts, b.truncated)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_is_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    some(dtype).save(tmp_path / "prompt.safetensors")
    assert equal(TextFeatures.load(tmp_path / "prompt.safetensors"), some(dtype))
    assert [path.name for path in tmp_path.iterdir()] == ["prompt.safetensors"]


def test_rows_and_joins() -> None:
    whole = some()
    assert len(whole) == 3
    assert equal(TextFeatures.join([whole[0], whole[1:]]), whole)
    assert equal(TextFeatures.join(list(whole)), whole)
    assert whole[-1].truncated == ('cut "here": ünïcode',)
    with pytest.raises(IndexError):
        whole[3]
    for parts in ([], [whole, TextFeatures.empty(1, 6, 4)], [whole, TextFeatures.empty(1, 5, 3)]):
        with pytest.raises(RequestError, match="parts"):
            TextFeatures.join(parts)


def test_empty_and_moved() -> None:
    empty = TextFeatures.empty(2, 256, 8, dtype=torch.bfloat16)
    assert empty.features.shape == (2, 256, 8)
    assert not empty.mask.any()
    assert empty.token_counts == (0, 0)
    moved = some().to("cpu", torch.bfloat16)
    assert moved.features.dtype == torch.bfloat16
    assert moved.mask.dtype == torch.bool
    assert some().to("meta").mask.is_meta


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"features": torch.zeros(3, 5)}, "features"),
        ({"features": torch.zeros(3, 5, 4).int()}, "features"),
        ({"mask": torch.zeros(3, 4, dtype=torch.bool)}, "mask"),
        ({"mask": torch.zeros(3, 5)}, "mask"),
        ({"token_counts": (1,)}, "token_counts, truncated"),
        ({"truncated": ("",)}, "token_counts, truncated"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        TextFeatures(**(vars(some()) | change))
    assert caught.value.field == field


def test_an_existing_file_is_kept_unless_asked_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        some().save(path)
    assert path.read_text() == "precious"
    some().save(path, overwrite=True)
    assert equal(TextFeatures.load(path), some())


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        some().save(tmp_path / "absent" / "prompt.safetensors")

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        some().save(tmp_path / "prompt.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_truncated_files_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "prompt.safetensors"
    some().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"prompt\.safetensors"):
        TextFeatures.load(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    marked = {"format": "mochi-text-features-1"}
    good = {"features": torch.zeros(1, 2, 3), "mask": torch.zeros(1, 2, dtype=torch.bool)}
    notes = '{"token_counts": [0], "truncated": [""]}'
    for tensors, metadata in (
        (good, None),
        (good, {"format": "other"}),
        (good, marked),
        (good, marked | {"notes": "{"}),
        (good, marked | {"notes": "[]"}),
        (good, marked | {"notes": '{"token_counts": [0, 1], "truncated": [""]}'}),
        ({"features": good["features"]}, marked | {"notes": notes}),
        (good | {"mask": torch.zeros(1, 3, dtype=torch.bool)}, marked | {"notes": notes}),
        (good | {"features": torch.full((1, 2, 3), float("nan"))}, marked | {"notes": notes}),
    ):
        save_file(tensors, path, metadata)
        with pytest.raises(WeightsError):
            TextFeatures.load(path)
    save_file(good, path, marked | {"notes": notes})
    assert TextFeatures.load(path).token_counts == (0,)
    with pytest.raises(WeightsError, match="absent"):
        TextFeatures.load(tmp_path / "absent")
