"""Pages of mapped files: brought, given back, and never those that were written to."""

import mmap
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mochi.memory import pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system takes pages by itself")

PAGE = mmap.PAGESIZE
PAGES = 64


@pytest.fixture
def mapped(tmp_path: Path) -> Tensor:
    """A private map of a file, as weights are mapped: 64 pages, the byte i of which is i % 251."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(i % 251 for i in range(PAGES * PAGE)))
    with path.open("rb") as file:
        data = mmap.mmap(
            file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    return torch.frombuffer(data, dtype=torch.uint8)


def resident_file_bytes(tensor: Tensor) -> int:
    """Bytes of a mapped file that this process holds, from the system's own account."""
    start, found = f"{tensor.data_ptr():x}-", False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        found = line.startswith(start) or (found and not line[0].isdigit() and "-" not in line)
        if found and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the map is gone")


def test_what_is_fetched_is_resident_and_what_is_dropped_is_not(mapped: Tensor) -> None:
    pages.drop([mapped])
    assert resident_file_bytes(mapped) == 0
    pages.fetch([mapped])
    assert resident_file_bytes(mapped) == PAGES * PAGE
    assert pages.drop([mapped]) == PAGES * PAGE
    assert resident_file_bytes(mapped) == 0
    assert mapped[5 * PAGE + 7] == (5 * PAGE + 7) % 251  # and it comes back when it is used


def test_only_the_given_tensors_pages_go(mapped: Tensor) -> None:
    pages.fetch([mapped])
    pages.drop([mapped[: 8 * PAGE], mapped[8 * PAGE : 16 * PAGE]])
    assert resident_file_bytes(mapped) == (PAGES - 16) * PAGE


def test_a_page_that_was_written_to_stays(mapped: Tensor) -> None:
    mapped[3 * PAGE] = 255
    assert pages.drop([mapped[: 8 * PAGE]]) == 0
    assert mapped[3 * PAGE] == 255
    assert pages.drop([mapped[8 * PAGE :]]) == (PAGES - 8) * PAGE


def test_memory_of_the_process_itself_is_never_given_back() -> None:
    tensor = torch.arange(1_000_000)
    assert pages.drop([tensor]) == 0
    assert torch.equal(tensor, torch.arange(1_000_000))
    pages.fetch([tensor])


def test_neighbours_are_one_range_and_others_are_not(mapped: Tensor) -> None:
    first = mapped.data_ptr()
    parts = [mapped[40 * PAGE :], mapped[: PAGE + 1], mapped[PAGE + 1 : 3 * PAGE]]
    assert pages.spans(parts) == [
        (first, first + 3 * PAGE),
        (first + 40 * PAGE, first + PAGES * PAGE),
    ]


def test_a_view_with_steps_covers_from_its_first_to_its_last_element(mapped: Tensor) -> None:
    (span,) = pages.spans([mapped.view(PAGES, PAGE)[2:6, ::2]])
    assert span == (mapped.data_ptr() + 2 * PAGE, mapped.data_ptr() + 6 * PAGE)


def test_nothing_is_no_range() -> None:
    assert pages.spans([torch.empty(0), torch.empty(3, device="meta")]) == []


def test_without_an_account_of_pages_nothing_is_dropped(
    mapped: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages.fetch([mapped])
    monkeypatch.setattr(pages, "_PAGEMAP", "/nowhere/pagemap")
    assert pages.drop([mapped]) == 0
    assert resident_file_bytes(mapped) == PAGES * PAGE


def test_a_system_without_the_advice_is_left_alone(
    mapped: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_function", lambda name: None)
    pages.fetch([mapped])
    assert pages.drop([mapped]) == 0


def test_what_is_in_the_systems_cache_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "written"
    path.write_bytes(bytes(10 * PAGE + 5))
    assert pages.cached_bytes(path) == 10 * PAGE + 5  # it was just written
    (tmp_path / "empty").touch()
    assert pages.cached_bytes(tmp_path / "empty") == 0
