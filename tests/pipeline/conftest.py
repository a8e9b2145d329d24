"""A pipeline on the tiny model."""

from pathlib import Path

import pytest

import mochi
from mochi.pipeline.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    """Its networks stay loaded from test to test of a file."""
    return mochi.load(str(tiny_model), device="cpu")
