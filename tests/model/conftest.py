"""Fixtures of the network tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.model.golden import Goldens


@pytest.fixture(scope="session")
def goldens(shared: Path) -> Goldens:
    """The published goldens."""
    return Goldens(shared / "goldens")


@pytest.fixture(autouse=True)
def _quiet() -> object:
    """No test here needs gradients unless it turns them on."""
    with torch.no_grad():
        yield
