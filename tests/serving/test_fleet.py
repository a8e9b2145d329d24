"""Replicas on Ray: as many as there is work for, and none of their deaths loses a job."""

from pathlib import Path

import pytest

from mochi.core.errors import RequestError
from mochi.serving.fleet.settings import FleetSetting, superfluous, wanted
from mochi.serving.settings import ServeSettings, read_settings


@pytest.mark.parametrize(
    ("waiting", "running", "known", "count"),
    [(0, 0, True, 1), (0, 0, False, 1), (2, 0, True, 2), (2, 1, True, 3), (50, 3, True, 4)],
)
def test_there_are_as_many_as_jobs_within_limits(
    waiting: int, running: int, known: bool, count: int
) -> None:
    setting = FleetSetting(least=1, most=4)
    assert wanted(setting, waiting, running, models_known=known) == count


def test_nobody_is_there_for_nothing_once_the_models_are_known() -> None:
    assert wanted(FleetSetting(), 0, 0, models_known=True) == 0
    assert wanted(FleetSetting(), 0, 0, models_known=False) == 1


def test_those_idle_for_longest_go_first_and_those_at_work_stay() -> None:
    setting = FleetSetting(idle_seconds=10)
    idle = [None, 30.0, 5.0, 60.0, None]
    assert superfluous(idle, 4, setting) == [3]
    assert superfluous(idle, 0, setting) == [3, 1]
    assert superfluous(idle, 5, setting) == []


def test_settings_of_a_fleet_are_checked(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="least=5 must be at most most=2"):
        read_settings(data=tmp_path, ray={"least": 5, "most": 2})
    with pytest.raises(RequestError, match="replicas"):
        read_settings(data=tmp_path, ray={"replicas": 3})
    assert FleetSetting(resources={"GPU": 1, "CPU": 4}, ranks=2).bundle == {"GPU": 2, "CPU": 8}


def test_replicas_need_places_that_every_machine_reaches(tmp_path: Path) -> None:
    from mochi.serving.services import open_services

    settings = ServeSettings(data=tmp_path, ray={"address": "local"})
    with pytest.raises(RequestError, match="database=None cannot be reached by replicas"):
        open_services(settings)
