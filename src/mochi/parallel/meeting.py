"""Where the ranks of a run find each other, and make sure that they want the same."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from mochi.core.errors import RankError

LOOPBACK = "127.0.0.1"
COME_SECONDS = 300.0
"""How long ranks wait for those that have not come."""

_SOMEWHERE = "192.0.2.1"
"""An address of no machine (RFC 5737)."""

_STEP_SECONDS, _WAY_SECONDS = 1.0, 15.0


@dataclass(frozen=True)
class Meeting:
    """The address of a store that all ranks reach, and the part of it that is theirs."""

    host: str
    port: int
    run: str = "mochi"

    def join(self, seconds: float = COME_SECONDS) -> Store:
        """A connection of the caller's own.

        Raises:
            RankError: nobody answers there.
        """
        try:
            store = TCPStore(
                self.host, self.port, is_master=False, timeout=timedelta(seconds=seconds)
            )
        except (RuntimeError, ValueError) as error:
            raise RankError(
                f"nobody answers at {self.host}:{self.port}, where the ranks were to meet "
                f"(waited {seconds:.0f} s): is the first rank running, and is the way open?"
            ) from error
        return PrefixStore(self.run, store)

    def address(self, wide: bool = False) -> str:
        """This machine's, as those see it who come there.

        Args:
            wide: whether they come from other machines. Then an address of this one alone, which
                its own name often stands for, is none.
        """
        found = LOOPBACK
        if self.host not in (LOOPBACK, "localhost"):
            found = _own_address_towards(self.host, self.port) or LOOPBACK
        if wide and found.startswith("127."):
            found = _own_address_towards(_SOMEWHERE, self.port) or found
        return found


def _own_address_towards(host: str, port: int) -> str | None:
    """Where packets to a host leave this machine; none are sent."""
    with suppress(OSError):
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    return None


def hold_meeting(
    host: str = LOOPBACK, port: int = 0, run: str = "mochi"
) -> tuple[TCPStore, Meeting]:
    """A store in this process, for as long as it is held; port 0 takes one that is free.

    Raises:
        RankError: the port is taken, or the address is not this machine's.
    """
    try:
        door = _listening(host, port)
    except OSError as error:
        hint = "another run uses it; set MASTER_PORT to a free one"
        raise RankError(f"no rank can meet at {host}:{port}: {hint} ({error})") from error
    port = door.getsockname()[1]
    store = TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=door.detach()
    )
    return store, Meeting(host, port, run)


def _listening(host: str, port: int) -> socket.socket:
    """On the loopback interface nobody else can come in; a name may have several addresses."""
    if host == LOOPBACK:
        return socket.create_server((host, port))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def compare(
    store: Store,
    name: str,
    rank: int,
    size: int,
    facts: Mapping[str, str],
    seconds: float = COME_SECONDS,
) -> None:
    """Make sure that all ranks agree about some facts; all of them call this.

    Args:
        store: of the run.
        name: of this comparison, a new one each time.
        rank, size: of the caller, and how many there are.
        facts: words by what they are about.
        seconds: how long to wait for the others.

    Raises:
        RankError: a rank did not come, or says something else.
    """
    store.set(f"{name}/{rank}", json.dumps(dict(facts)))
    _wait_for_all(store, name, size, seconds)
    first = json.loads(store.get(f"{name}/0"))
    for other in range(1, size):
        theirs = json.loads(store.get(f"{name}/{other}"))
        for fact in sorted(first.keys() | theirs.keys()):
            if first.get(fact) != theirs.get(fact):
                raise RankError(
                    f"rank {other} is not like rank 0: {fact} is {_shown(theirs.get(fact))} "
                    f"there and {_shown(first.get(fact))} on rank 0",
                    other,
                )


def check_ways(store: Store, rank: int, size: int, address: str, seconds: float) -> None:
    """Make sure that every rank reaches every other; all of them call this.

    Args:
        store: of the run.
        rank, size: of the caller, and how many there are.
        address: of the caller's machine, as others see it.
        seconds: how long to wait for the others to come.

    Raises:
        RankError: one cannot be reached.
    """
    with socket.create_server((address, 0), backlog=size) as door:
        store.set(f"way/{rank}", json.dumps([address, door.getsockname()[1]]))
        _wait_for_all(store, "way", size, seconds)
        for other in range(size):
            host, port = json.loads(store.get(f"way/{other}"))
            try:
                socket.create_connection((host, port), _WAY_SECONDS).close()
            except OSError as error:
                raise RankError(
                    f"rank {rank} at {address} cannot reach rank {other} at {host}: is there a "
                    f"firewall, or is it the wrong network? ({error})",
                    rank,
                ) from error
        store.set(f"been/{rank}", "1")
        _wait_for_all(store, "been", size, seconds)


def _wait_for_all(store: Store, name: str, size: int, seconds: float) -> None:
    left, missing = seconds, [f"{name}/{rank}" for rank in range(size)]
    while missing:
        try:
            store.wait(missing[:1], timedelta(seconds=min(_STEP_SECONDS, left)))
            missing.pop(0)
        except RuntimeError as error:
            left -= _STEP_SECONDS
            if left <= 0 or "imeout" not in str(error):
                absent = [key.rpartition("/")[2] for key in missing if not store.check([key])]
                ranks = ", ".join(absent) or "the others"
                rank = int(absent[0]) if absent else None
                raise RankError(
                    f"rank {ranks} of {size} did not come within {seconds:.0f} s", rank
                ) from error


def _shown(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:60] + "..."
