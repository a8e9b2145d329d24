"""`kill -9` of server, runner or both, at random moments: nothing is lost, doubled or stuck."""

from pathlib import Path

import pytest
from tests.serving.chaos import is_well, survive
from tests.serving.conftest import BOTH

both = pytest.mark.parametrize("database_url", BOTH, indirect=True)


def test_a_few_kills(database_url: str, tmp_path: Path) -> None:
    found = survive(tmp_path, database_url, jobs=4, kills=4, seed=1)
    assert is_well(found), found
    assert found["kills"] == 4


@pytest.mark.long
@both
def test_two_hundred_kills(database_url: str, tmp_path: Path) -> None:
    found = survive(tmp_path, database_url, jobs=50, kills=200, seed=2)
    assert is_well(found), found
    assert found["kills"] == 200
    assert found["moments"]["while a job ran"] > 40, found  # a dead runner is replaced in a second
