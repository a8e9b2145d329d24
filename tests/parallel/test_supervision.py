"""Who is blamed when ranks stop, which scheme is taken, where a process stands: no ranks needed."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from mochi.core.errors import DoesNotFitError, RankError, RequestError, SamplingError
from mochi.parallel.channel import Failure, travels
from mochi.parallel.choice import Circumstances, choose
from mochi.parallel.crew import Crew
from mochi.parallel.links import read_topology
from mochi.parallel.meeting import Meeting, check_ways, compare, hold_meeting
from mochi.parallel.neighbours import Neighbours
from mochi.parallel.places import Place, first_node, place_in
from mochi.parallel.pulse import Beat, PeerLostError, Pulse
from mochi.parallel.scheme import Scheme
from mochi.parallel.watchdog import Watchdog


class Watched:
    """Two ranks on a clock of the test's own."""

    def __init__(self) -> None:
        self.dog = Watchdog()
        self.clock = 0.0
        self.beats = {0: Beat(0, False, True, 0.0), 1: Beat(0, False, True, 0.0)}

    def run(self, seconds: int, *silent: int, **changes: Any) -> tuple[int, str] | None:
        """A second at a time: both give signs of life, rank 0 waiting for rank 1."""
        for _ in range(seconds):
            self.clock += 1
            self.dog.tick(self.clock)
            for rank in {0, 1} - set(silent):
                before = self.beats[rank]
                changed = {name: change(before) for name, change in changes.items()}
                busy = before.to_dict() | {"waiting": rank == 0} | (changed if rank else {})
                self.beats[rank] = Beat(**busy)
                self.dog.hear(rank, self.beats[rank])
            verdict = self.dog.verdict()
            if verdict:
                return verdict
        return None


def works(beat: Beat) -> float:
    return beat.activity + 0.5


def test_a_rank_that_works_may_take_as_long_as_it_likes_at_first() -> None:
    assert Watched().run(1000, activity=works) is None


def test_a_rank_that_does_nothing_while_others_wait_hangs() -> None:
    watched = Watched()
    assert watched.run(100, activity=works) is None
    begun = watched.clock
    verdict = watched.run(100)
    assert verdict is not None
    assert verdict[0] == 1
    assert "has done nothing" in verdict[1]
    assert watched.clock - begun < 30


def test_a_rank_without_a_sign_of_life_hangs() -> None:
    watched = Watched()
    watched.run(3, activity=works)
    verdict = watched.run(100, 1)
    assert verdict is not None
    assert verdict[0] == 1
    assert watched.clock < 30


def test_a_rank_that_is_not_heard_again_hangs() -> None:
    watched = Watched()
    watched.run(3)
    watched.dog.begin([0, 1])
    verdict = watched.run(100, 1)
    assert verdict is not None
    assert verdict[0] == 1
    assert watched.clock < 30


def test_a_rank_that_turns_for_ever_is_found_once_it_is_known_what_is_usual() -> None:
    watched = Watched()
    assert watched.run(200, activity=works, exchanges=lambda b: b.exchanges + 1) is None
    verdict = watched.run(200, activity=works)
    assert verdict is not None
    assert verdict[0] == 1
    assert "computes for" in verdict[1]
    assert watched.clock - 200 < 40


def test_it_is_found_when_all_that_was_usual_came_before_its_first_sign_of_life() -> None:
    watched = Watched()
    watched.run(1, activity=works, exchanges=lambda _: 200)
    verdict = watched.run(40, activity=works)
    assert verdict is not None
    assert "computes for" in verdict[1]
    watched.dog.begin([0, 1])
    assert watched.run(200, activity=works) is None, "in the next run nothing is usual yet"


def test_a_machine_that_slept_blames_nobody() -> None:
    watched = Watched()
    watched.run(10, activity=works)
    watched.clock += 100_000
    assert watched.run(10, activity=works) is None


def test_an_idle_rank_between_videos_is_no_hanging_one() -> None:
    assert Watched().run(100, busy=lambda _: False) is None


def test_a_thread_that_computes_is_active() -> None:
    pulse = Pulse()
    before = pulse.beat()
    sum(range(3_000_000))
    with pytest.raises(PeerLostError, match="rank failed: gone"), pulse.exchange():
        raise RuntimeError("gone\nand more" if pulse.waiting else "")
    after = pulse.beat()
    assert after.activity > before.activity
    assert (after.exchanges, after.waiting) == (1, False)


@pytest.mark.parametrize(
    "error",
    [
        RequestError("steps", 0, "is not a positive number", 1),
        DoesNotFitError("too large"),
        SamplingError("NaN"),
        RankError("rank 1 is gone", 1),
    ],
)
def test_errors_travel(error: Exception) -> None:
    back = Failure.of(error).error(0)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back).keys() >= vars(error).keys()
    assert str(error) in str(Failure.of(error).error(3))


def test_a_bug_travels_with_its_traceback() -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        failure = Failure.of(error)
    assert not failure.echo
    assert "test_supervision.py" in str(failure.error(2))
    assert Failure.of(PeerLostError("gone")).echo
    assert travels(works)
    assert not travels(lambda: 0)


@pytest.mark.parametrize(
    ("about", "scheme", "words"),
    [
        ((2, 1, 24, True, "NVLink"), "guidance=2", "two halves"),
        ((8, 1, 24, True, "NVLink"), "guidance=2,ulysses=4", "24 heads cut evenly by 4"),
        ((8, 1, 24, False, "NVLink"), "ulysses=8", "one pass a step"),
        ((7, 1, 24, True, "NVLink"), "ring=7", "a ring of 7"),
        ((7, 1, 24, True, "PCIe"), "ulysses=7", "as evenly as they go by 7"),
        ((6, 1, 24, True, "NVLink"), "guidance=2,ulysses=3", "by 3"),
        ((16, 2, 24, True, "NVLink"), "guidance=2,ulysses=8", "on 2 machines"),
        ((32, 4, 24, True, "NVLink"), "guidance=2,ulysses=8,ring=2", "ring of 2 between machines"),
        ((10, 1, 24, True, "NVLink"), "guidance=2,ring=5", "a ring of 5"),
        ((3, 1, 2, True, "NVLink"), "ring=3", "a ring of 3"),
        ((1, 1, 24, True, "NVLink"), "guidance=1", "one device"),
    ],
)
def test_auto_picks_a_scheme_and_says_why(about: Any, scheme: str, words: str) -> None:
    choice = choose("auto", Circumstances(*about))
    assert choice.scheme == Scheme.parse(scheme)
    assert words in choice.why
    assert choice.scheme.devices == about[0]
    assert choose(str(choice.scheme), Circumstances(*about)).scheme == choice.scheme


TOPOLOGY = """\
        \x1b[4mGPU0    GPU1    GPU2    NIC0    CPU Affinity\x1b[0m
GPU0     X      NV18    PHB     PIX     0-31
GPU1    NV18     X      SYS     NODE    0-31
GPU2    PHB     SYS      X      NODE    0-31

Legend:
"""


def test_links_are_read_off_the_topology() -> None:
    assert read_topology(TOPOLOGY, [0, 1]) == "NVLink"
    assert read_topology(TOPOLOGY, [0, 1, 2]) == "PCIe"
    assert read_topology("nonsense", [0, 1]) == "a link that is not known"


def test_torchrun_is_recognised() -> None:
    environment = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "a", "MASTER_PORT": "2950"}
    environment |= {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}
    place = place_in(environment)
    assert place == Place(5, 8, 1, 4, "a", 2950, "mochi/x/0", hosts=False, starter="torchrun")
    assert (place.machines, place.leads) == (2, False)
    assert place_in({}) is None
    for name, text in [("RANK", "8"), ("WORLD_SIZE", "many"), ("MASTER_PORT", None)]:
        changed = {k: v for k, v in (environment | {name: text}).items() if v is not None}
        with pytest.raises(RequestError, match=name):
            place_in(changed)


def test_slurm_is_recognised_within_a_step_alone() -> None:
    step = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
    step |= {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    step |= {"SLURM_STEP_NODELIST": "gpu[03-07,11]"}
    place = place_in(step)
    assert place is not None
    assert (place.rank, place.size, place.local_rank, place.machines) == (3, 4, 1, 2)
    assert place.host == "gpu03"
    other = place_in(step | {"SLURM_STEP_ID": "2"})
    assert other is not None
    assert place.port != other.port
    assert place_in({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None  # a batch script


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a,b", "a"), ("n[1,3-5]", "n1"), ("n[01-09]x,m", "n01x"), ("", "")],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_ranks_that_differ_are_told_how() -> None:
    store = dist.HashStore()
    store.set("a/1", '{"request.steps": "5"}')
    with pytest.raises(RankError, match=r"rank 1 is not like rank 0: request\.steps is 5 there"):
        compare(store, "a", 0, 2, {"request.steps": "4"})
    with pytest.raises(RankError, match="rank 1, 2 of 3 did not come within 1 s"):
        compare(store, "b", 0, 3, {}, seconds=1)


def test_a_meeting_has_a_port_of_its_own_and_a_busy_one_is_explained() -> None:
    store, meeting = hold_meeting()
    other, elsewhere = hold_meeting()
    assert meeting.port != elsewhere.port
    assert meeting.address() == "127.0.0.1"
    joined = meeting.join(10)
    joined.set("x", "1")
    assert meeting.join(10).get("x") == b"1"
    with pytest.raises(RankError, match=f"{meeting.port}: another run uses it"):
        hold_meeting("127.0.0.1", meeting.port)
    del other
    with pytest.raises(RankError, match=r"nobody answers at 127\.0\.0\.1:1"):
        Meeting("127.0.0.1", 1).join(0.5)
    assert store.timeout > timedelta(0)


def test_a_rank_that_cannot_be_reached_is_named() -> None:
    store = dist.HashStore()
    with socket.create_server(("127.0.0.1", 0)) as door:
        shut = door.getsockname()[1]
    store.set("way/1", json.dumps(["127.0.0.1", shut]))
    with pytest.raises(RankError, match=r"rank 0 at 127\.0\.0\.1 cannot reach rank 1 at 127\.0"):
        check_ways(store, 0, 2, "127.0.0.1", 5)
    store = dist.HashStore()
    with ThreadPoolExecutor(3) as ranks:
        asked = [ranks.submit(check_ways, store, rank, 3, "127.0.0.1", 60) for rank in range(3)]
        assert [each.result() for each in asked] == [None] * 3


def test_supervisors_hear_of_each_others_ranks_and_failures() -> None:
    store = dist.HashStore()
    first, second = Neighbours(store, [0], 3), Neighbours(store, [1, 2], 3)
    assert list(first.news()) == []
    second.beat(1, Beat(3, True, True, 0.5))
    heard = Neighbours(store, [0], 3)
    assert list(heard.news()) == [(1, Beat(3, True, True, 0.5))]
    assert list(heard.news()) == []  # once a second
    second.fail(2, RankError("rank 2 was ended by SIGKILL", 2))
    second.fail(1, ValueError("later"))
    with pytest.raises(RankError, match=r"^rank 2 was ended by SIGKILL") as caught:
        first.raise_failure()
    assert caught.value.rank == 2


def test_supervisors_wait_for_each_other_at_the_end() -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as both:
        parts = [both.submit(Neighbours(store, [rank], 2).part, 1) for rank in (0, 1)]
        assert [each.result(60) for each in parts] == [None, None]


class Scripted:
    """Ranks that say what a test has written down, one list at a time."""

    ranks = (0, 1)

    def __init__(self, *batches: list[Any]) -> None:
        self.batches, self.ended = list(batches), False

    def say(self, rank: int, kind: str, **content: Any) -> None:
        pass

    def poll(self, seconds: float) -> list[Any]:
        return self.batches.pop(0)

    def end(self) -> None:
        self.ended = True


LOST = (0, "failed", {"failure": Failure.of(PeerLostError("rank 1 has gone"))})
KILLED = (1, "ended", {"reason": "was ended by SIGKILL"})


@pytest.mark.parametrize("batches", [[[LOST, KILLED]], [[LOST], [], [KILLED]], [[KILLED, LOST]]])
def test_the_rank_at_fault_is_named_whoever_is_heard_first(batches: Any) -> None:
    ranks = Scripted(*batches)
    with pytest.raises(RankError, match="rank 1 was ended by SIGKILL"):
        Crew(ranks).collect("done")
    assert ranks.ended
