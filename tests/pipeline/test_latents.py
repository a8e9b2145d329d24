"""Latents as files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mochi.core.errors import OutputError, WeightsError
from mochi.core.latents import DitLatent
from mochi.pipeline.latents import StoredLatents

LATENT = torch.randn(1, 12, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_file_gives_back_what_was_put_in(tmp_path: Path) -> None:
    path = tmp_path / "z.safetensors"
    StoredLatents(DitLatent(LATENT), 0.1, {"request": {"prompt": "ü"}}).save(path)
    loaded = StoredLatents.load(path)
    assert torch.equal(loaded.latent.tensor, LATENT)
    assert (loaded.sigma, loaded.record) == (0.1, {"request": {"prompt": "ü"}})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "z.safetensors"
    path.write_text("mine")
    with pytest.raises(OutputError):
        StoredLatents(DitLatent(LATENT)).save(path)
    assert path.read_text() == "mine"
    StoredLatents(DitLatent(LATENT)).save(path, overwrite=True)
    assert torch.equal(StoredLatents.load(path).latent.tensor, LATENT)


@pytest.mark.parametrize(
    ("tensors", "metadata", "says"),
    [
        ({"z": LATENT}, {}, "no tensor called latents"),
        ({"latents": LATENT / 0}, {}, "not finite"),
        ({"latents": LATENT}, {"sigma": "2"}, "sigma"),
        ({"latents": LATENT}, {"sigma": "nan"}, "sigma"),
        ({"latents": LATENT}, {"sigma": "much"}, "metadata"),
        ({"latents": LATENT}, {"record": "{"}, "metadata"),
    ],
)
def test_what_is_no_latent_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], says: str
) -> None:
    path = tmp_path / "z.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(WeightsError, match=says):
        StoredLatents.load(path)


def test_a_file_of_another_program_with_latents_is_taken_as_finished(tmp_path: Path) -> None:
    save_file({"latents": LATENT.bfloat16()}, tmp_path / "z.safetensors")
    loaded = StoredLatents.load(tmp_path / "z.safetensors")
    assert loaded.sigma == 0
    assert loaded.latent.tensor.dtype == torch.float32


def test_a_cut_file_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "z.safetensors"
    StoredLatents(DitLatent(LATENT)).save(path)
    path.write_bytes(path.read_bytes()[:-10])
    for bad in (path, tmp_path / "none"):
        with pytest.raises(WeightsError):
            StoredLatents.load(bad)
