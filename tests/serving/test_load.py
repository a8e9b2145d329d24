"""Many clients at once: nothing lost, nothing doubled, memory flat."""

from pathlib import Path

import pytest
from tests.serving.load import press


@pytest.mark.long
def test_a_thousand_jobs_from_fifty_clients(tmp_path: Path) -> None:
    found = press(tmp_path / "data", jobs=1000, clients=50)
    assert found["ends"] == {"succeeded": 1000}, found
    assert found["distinct"] == 1000
    before, after = found["memory_mib"]
    assert after - before < 100, found
