"""One world of six processes for all tests here; each test uses as many as it needs."""

from collections.abc import Iterator

import pytest
from tests.parallel.crew import Crew


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    crew = Crew(6)
    yield crew
    crew.close()
