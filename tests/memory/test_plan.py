"""Which mode each stage gets, and what a plan says."""

import json
from itertools import pairwise

import pytest

from mochi.core.errors import RequestError
from mochi.core.sizes import VideoSize
from mochi.memory.modes import MODES, check_mode, smaller
from mochi.memory.need import Need, Sizes, Weights, blocks_need, whole_need
from mochi.memory.plan import GIB, Plan, Room, choose, duration

TEXT = Weights(Sizes(1 * GIB, 9 * GIB, GIB // 2), Sizes(2 * GIB, 18 * GIB, GIB), in_place=False)
DIT = Weights(
    Sizes(GIB // 4, 15 * GIB, GIB // 2, 5 * GIB, GIB // 8),
    Sizes(GIB // 4, 15 * GIB, GIB // 2, 5 * GIB, GIB // 8),
    in_place=True,
)
VAE = Weights(Sizes(GIB), Sizes(GIB), in_place=True)


def options(on_cpu: bool) -> dict[str, list[Need]]:
    """What the stages of a made-up model of the published sizes take."""
    found = {}
    for mode in MODES:
        needs = [
            blocks_need("text", TEXT, mode, GIB // 8, on_cpu=on_cpu),
            blocks_need("denoise", DIT, mode, 2 * GIB, on_cpu=on_cpu, kept=GIB // 4),
            whole_need("decode", VAE, mode, 3 * GIB, on_cpu=on_cpu),
        ]
        if mode == "high":
            needs = [
                need.beside(
                    sum(other.weights for other in needs if other is not need),
                    sum(other.mapped for other in needs if other is not need),
                )
                for need in needs
            ]
        found[mode] = needs
    return found


def modes(free: float, on_cpu: bool, host: float = 64) -> list[str]:
    room = Room(int(free * GIB), int((free if on_cpu else host) * GIB), on_cpu)
    return [need.mode for need in choose(options(on_cpu), room, None)]


def test_on_a_gpu_each_stage_is_as_fast_as_its_memory_allows() -> None:
    assert modes(80, False) == ["high"] * 3
    assert modes(24, False) == ["low", "balanced", "balanced"]
    assert modes(16, False) == ["low", "low", "balanced"]
    assert modes(16, False, host=10) == ["low", "minimal", "balanced"]


def test_on_a_cpu_the_pages_of_files_count_for_speed_alone() -> None:
    assert modes(96, True) == ["high"] * 3
    assert modes(24, True) == ["low", "balanced", "balanced"]
    assert modes(12, True) == ["minimal", "minimal", "balanced"]
    tight = Room(5 * GIB, 5 * GIB, on_cpu=True)
    for need in choose(options(True), tight, None):
        assert tight.has(need), need


def test_what_was_asked_for_is_what_is_planned() -> None:
    room = Room(GIB, GIB, on_cpu=True)
    for mode in MODES:
        assert [need.mode for need in choose(options(True), room, mode)] == [mode] * 3


def test_each_mode_takes_less_than_the_one_before() -> None:
    for on_cpu in (True, False):
        found = options(on_cpu)
        for bigger, less in pairwise(MODES):
            for a, b in zip(found[bigger], found[less], strict=True):
                assert b.total <= a.total
                assert not on_cpu or b.total + b.mapped <= a.total + a.mapped


def test_streaming_holds_two_blocks_and_no_modulation() -> None:
    need = blocks_need("denoise", DIT, "low", GIB, on_cpu=False)
    assert need.weights == GIB // 4 + 2 * (GIB // 2)
    assert need.host == 15 * GIB
    need = blocks_need("denoise", DIT, "minimal", GIB, on_cpu=False)
    assert need.host == 2 * (GIB // 2)
    need = blocks_need("denoise", DIT, "minimal", GIB, on_cpu=True)
    assert (need.weights, need.mapped) == (0, GIB // 4 + 2 * (GIB // 2))
    need = blocks_need("text", TEXT, "minimal", 0, on_cpu=True)
    assert need.weights == 2 * GIB + 2 * GIB
    assert blocks_need("text", TEXT, "low", 0, on_cpu=False).host == 2 * GIB


def test_headroom_is_left_by_auto_alone() -> None:
    need = Need("decode", GIB, GIB)
    exact = Room(2 * GIB, 2 * GIB, on_cpu=True)
    assert exact.has(need)
    assert not exact.has_easily(need)
    assert Room(int(2.2 * GIB), int(2.2 * GIB), on_cpu=True).has_easily(need)


def a_plan(**changes: object) -> Plan:
    needs = (Need("text", 1, 2, seconds=3.0), Need("denoise", GIB, GIB, "low", 5, 7, 100.0))
    given = {"needs": needs, "room": Room(4 * GIB, 8 * GIB, on_cpu=False), "program": (10, 20)}
    return Plan(VideoSize(7, 64, 64), "cuda:0", "auto", **(given | changes))


def test_a_plan_adds_up_and_can_be_written_down() -> None:
    plan = a_plan()
    assert plan.device_bytes == 2 * GIB
    assert plan.host_bytes == 10 + 5
    assert plan.mapped_bytes == 20 + 7
    assert plan.seconds == 103
    assert a_plan(room=Room(GIB, GIB, on_cpu=True)).host_bytes == 10 + 5 + 2 * GIB
    content = json.loads(json.dumps(plan.to_dict()))
    assert content["stages"][1]["mode"] == "low"
    assert content["size"] == {"frames": 7, "height": 64, "width": 64}
    assert content["device_bytes"] == 2 * GIB


def test_a_plan_says_in_one_line_what_it_does() -> None:
    line = a_plan().announcement
    assert "\n" not in line
    assert "text high, denoise low" in line
    assert "2.0 GiB of 4.0 GiB free on cuda:0" in line
    assert "about 2 min" in line
    untimed = a_plan(needs=(Need("text", 1, 2),))
    assert untimed.seconds is None
    assert untimed.mode == "high"
    assert "about" not in untimed.announcement


def test_times_are_told_no_more_exactly_than_they_are_known() -> None:
    assert [duration(seconds) for seconds in (0.2, 42.3, 400, 9000)] == [
        "1 s",
        "42 s",
        "7 min",
        "2.5 h",
    ]


def test_modes_have_an_order_and_their_names_are_checked() -> None:
    assert [smaller(mode) for mode in MODES] == [*MODES[1:], None]
    assert check_mode("auto") is None
    assert check_mode("low") == "low"
    with pytest.raises(RequestError, match="auto, high, balanced, low, minimal"):
        check_mode("tiny")
