"""Whose turn it is: fair between accounts, whatever one of them throws in."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from mochi.serving.jobs import Waiting


def in_turn(jobs: Sequence[Waiting], last_claim: Mapping[str, float]) -> list[Waiting]:
    """The order in which `claim` will take them, if nothing new comes: priority first, then those
    that failed least, then accounts in turn, then age."""
    ordered: list[Waiting] = []
    classes: dict[tuple[int, int], list[Waiting]] = {}
    for job in jobs:
        classes.setdefault((-job.priority, job.attempts), []).append(job)
    last = dict(last_claim)
    tick = max(last.values(), default=0.0)
    for _, members in sorted(classes.items()):
        lines: dict[str, list[Waiting]] = {}
        for job in sorted(members, key=lambda job: job.seq):
            lines.setdefault(job.account, []).append(job)
        heads = [(last.get(name, 0.0), line[0].seq, name) for name, line in lines.items()]
        heapq.heapify(heads)
        while heads:
            _, _, name = heapq.heappop(heads)
            ordered.append(lines[name].pop(0))
            tick += 1.0
            last[name] = tick
            if lines[name]:
                heapq.heappush(heads, (tick, lines[name][0].seq, name))
    return ordered
