"""Memory that is left, under every kind of limit."""

import gc
import resource
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mochi.memory import available
from mochi.memory.available import available_bytes, host_available_bytes


def test_the_host_has_what_the_system_says_or_less(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_available_bytes() > 0
    # As little as no container leaves; what is really free changes from one look to the next.
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert host_available_bytes() == available_bytes("cpu") == 1000


def cgroup(folder: Path, limit: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\nactive_file 0\n")


def test_a_container_counts_its_limit_and_gives_its_cache_back(tmp_path: Path) -> None:
    cgroup(tmp_path / "a" / "b", "1000", used=600, cache=100)
    member = tmp_path / "cgroup"
    member.write_text("0::/a/b\n")
    assert available._container_available(tmp_path, member) == 500


def test_a_limit_higher_up_counts_too(tmp_path: Path) -> None:
    cgroup(tmp_path / "a" / "b", "max", used=10, cache=0)
    cgroup(tmp_path / "a", "300", used=100, cache=0)
    member = tmp_path / "cgroup"
    member.write_text("0::/a/b\n")
    assert available._container_available(tmp_path, member) == 200


def test_the_old_controllers_are_read(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("5000")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("1000")
    assert available._container_available(tmp_path, tmp_path / "none") == 4000


def test_no_limit_at_all(tmp_path: Path) -> None:
    assert available._container_available(tmp_path, tmp_path / "none") >= 2**60


def test_ulimit_counts() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    gc.collect()
    used = psutil.Process().memory_info().vms
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
        left = host_available_bytes()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert 2**29 < left < 2**30 + 2**28  # some of what was in use may have gone meanwhile
