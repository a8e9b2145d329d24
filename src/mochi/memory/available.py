"""How much memory a device can still give."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60


def available_bytes(device: torch.device | str) -> int:
    """Bytes that could be allocated on `device` now, within the limits set on this process."""
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return host_available_bytes()


def host_available_bytes() -> int:
    """Bytes of main memory free for this process: of the machine, its container, its limits."""
    return max(
        0,
        min(
            psutil.virtual_memory().available,
            _container_available(_CGROUP, Path("/proc/self/cgroup")),
            _address_space_available(),
        ),
    )


def process_bytes() -> tuple[int, int]:
    """What this process holds now: memory of its own, and pages of files (libraries, weights)."""
    try:
        status = Path("/proc/self/status").read_text()
        own, mapped = (int(status.split(key)[1].split()[0]) for key in ("RssAnon:", "RssFile:"))
    except (OSError, IndexError, ValueError):
        return int(psutil.Process().memory_info().rss), 0
    return own * 1024, mapped * 1024


def _container_available(root: Path, membership: Path) -> int:
    """What the memory controllers of this process's cgroups leave (v2, else v1's root)."""
    rooms = [_UNLIMITED]
    for folder in _cgroup_folders(root, membership):
        limit = _number(folder / "memory.max")
        used = _number(folder / "memory.current")
        if limit is not None and used is not None:
            rooms.append(limit - used + _reclaimable(folder / "memory.stat"))
    limit = _number(root / "memory" / "memory.limit_in_bytes")
    used = _number(root / "memory" / "memory.usage_in_bytes")
    if limit is not None and used is not None:
        rooms.append(limit - used + _reclaimable(root / "memory" / "memory.stat"))
    return min(rooms)


def _cgroup_folders(root: Path, membership: Path) -> list[Path]:
    """This process's cgroup v2 folder and all above it: each may have a limit."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return [root]
    inside = next((line.split("::", 1)[1] for line in lines if line.startswith("0::")), "/")
    folder = root / inside.strip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _reclaimable(stat: Path) -> int:
    """Page cache that the kernel gives back when asked: counted as used, but free."""
    try:
        rows = dict(line.split() for line in stat.read_text().splitlines())
        return int(rows.get("inactive_file", 0)) + int(rows.get("active_file", 0))
    except (OSError, ValueError):
        return 0


def _address_space_available() -> int:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return _UNLIMITED
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return _UNLIMITED
    return limit - int(psutil.Process().memory_info().vms)
