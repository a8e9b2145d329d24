"""What lies between the devices of a machine, as far as can be told."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import Literal

Link = Literal["NVLink", "PCIe", "this machine's memory", "a link that is not known"]

_ASK = ("nvidia-smi", "topo", "-m")


def link_between(kind: str, indices: Sequence[int]) -> Link:
    """The slowest link between some devices.

    Args:
        kind: of the devices: `cpu` or `cuda`.
        indices: which of them.
    """
    if kind == "cpu":
        return "this machine's memory"
    try:
        answer = subprocess.run(_ASK, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "a link that is not known"
    return read_topology(answer.stdout, indices)


def read_topology(table: str, indices: Sequence[int]) -> Link:
    """The slowest link in the table of `nvidia-smi topo -m`.

    Its cells say `NV18` for 18 NVLinks, and PIX, PXB, PHB, NODE or SYS for ways over PCIe.
    """
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", line).split() for line in table.splitlines()]
    cells = {row[0]: row[1:] for row in rows if row and re.fullmatch(r"GPU\d+", row[0])}
    between = [
        cells[f"GPU{a}"][b] for a in indices for b in indices if a != b and f"GPU{a}" in cells
    ]
    if not between:
        return "a link that is not known"
    return "NVLink" if all(cell.startswith("NV") for cell in between) else "PCIe"
