"""Many clients at once: nothing lost, nothing doubled, memory flat."""

from pathlib import Path

import pytest
from tests.serving.conftest import BOTH
from tests.serving.load import is_well, press


@pytest.mark.long
@pytest.mark.parametrize("database_url", BOTH, indirect=True)
def test_a_thousand_jobs_from_fifty_clients(database_url: str, tmp_path: Path) -> None:
    found = press(tmp_path / "data", jobs=1000, clients=50, database=database_url)
    assert is_well(found), found
