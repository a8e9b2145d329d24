"""A pipeline on the tiny model; models stored in another precision."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import mochi
from mochi.pipeline.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    """Its networks stay loaded from test to test of a file."""
    return mochi.load(str(tiny_model), device="cpu")


def copied_in_bfloat16(model: Path, folder: Path) -> Path:
    """The same model, all of it stored in bfloat16."""
    shutil.copytree(model, folder)
    for path in folder.rglob("*.safetensors"):
        save_file({name: x.bfloat16() for name, x in load_file(path).items()}, path)
    return folder
