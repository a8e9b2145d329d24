"""The harness: turns, ratios, processes of their own."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def test_sides_take_turns_and_the_first_is_compared_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pairs

    order: list[str] = []
    now = 0.0
    clock = SimpleNamespace(perf_counter=lambda: now, process_time=lambda: now / 2)
    monkeypatch.setattr(pairs, "time", clock)

    def side(name: str, *seconds: float) -> object:
        taken = iter(seconds)

        def work() -> str:
            nonlocal now
            order.append(name)
            now += next(taken)
            return name

        return work

    sides = {"a": side("a", 50.0, 1.0, 2.0, 1.0), "b": side("b", 9.0, 3.0, 3.0, 5.0)}
    found = pairs.alternate(sides, repeats=3)
    assert order == ["a", "b"] * 4
    assert found["sides"]["a"]["runs"] == 3
    assert found["sides"]["b"]["value"] == "b"
    assert (found["sides"]["a"]["max_seconds"], found["sides"]["b"]["max_seconds"]) == (2.0, 5.0)
    assert found["ratio"] == {"b": {"median": 3.0, "least": 1.5, "most": 5.0, "processor": 3.0}}


def test_a_side_apart_has_its_own_path_memory_and_output(tmp_path: Path) -> None:
    from pairs import Apart, alternate

    (tmp_path / "other.py").write_text(
        "import os\n"
        "def make(size):\n"
        "    def work():\n"
        "        print('noise that is no answer')\n"
        "        held = bytearray(os.urandom(1) * size)\n"
        "        return [os.getpid(), len(held)]\n"
        "    return work\n"
    )
    small, large = (Apart("other:make", {"size": s}, path=[tmp_path]) for s in (1, 200 * 2**20))
    found = alternate({"small": small, "large": large}, repeats=1)["sides"]
    pids = {found[name]["value"][0] for name in found}
    assert len(pids) == 2
    if sys.platform == "linux":
        assert found["large"]["peak_mib"] - found["small"]["peak_mib"] > 150


def test_a_side_that_dies_is_an_error(tmp_path: Path) -> None:
    from pairs import Apart, alternate

    (tmp_path / "broken.py").write_text("import sys\ndef make():\n    return lambda: sys.exit(3)\n")
    with pytest.raises(RuntimeError, match="status 3"):
        alternate({"broken": Apart("broken:make", path=[tmp_path])}, repeats=1)


def test_every_row_has_a_name_of_its_own() -> None:
    from rows import gather, table

    rows = [*gather("cpu"), *gather("cuda")]
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert table(rows).count("\n") == len(rows) + 1


@pytest.mark.long
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_denoising_rows_run_at_small_sizes(device: str) -> None:
    from pairs import Effort
    from rows import gather, in_short

    effort = Effort(repeats=1, tiny=True)
    rows = [row for row in gather(device) if row.name.startswith(("denoise", "gpu-"))]
    assert rows
    for row in rows:
        assert in_short(dict(row.measure(effort))) != "see the file", row.name
