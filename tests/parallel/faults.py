"""Wraps of a velocity that do harm on the second rank, to see what its supervisor makes of it."""

import os
import signal
import sys
import time
from typing import Any

VICTIM = "rank 1"


def _is_victim() -> bool:
    return sys.argv[-1] == VICTIM


def _at_second_step(velocity: Any, harm: Any) -> Any:
    def harmed(z: Any, sigma: float, step: int) -> Any:
        if step == 1 and _is_victim():
            harm()
        return velocity(z, sigma, step)

    return harmed


def _raise() -> None:
    raise MemoryError


def _bug() -> None:
    raise ZeroDivisionError("a bug of somebody's")


def runs_out_of_memory(velocity: Any) -> Any:
    return _at_second_step(velocity, _raise)


def has_a_bug(velocity: Any) -> Any:
    return _at_second_step(velocity, _bug)


def is_killed(velocity: Any) -> Any:
    return _at_second_step(velocity, lambda: os.kill(os.getpid(), signal.SIGKILL))


def leaves(velocity: Any) -> Any:
    def leave() -> None:
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)

    return _at_second_step(velocity, leave)


def hangs(velocity: Any) -> Any:
    return _at_second_step(velocity, lambda: time.sleep(10_000))


def is_frozen(velocity: Any) -> Any:
    return _at_second_step(velocity, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def turns_for_ever(velocity: Any) -> Any:
    def turn() -> None:
        while True:
            pass

    def harmed(z: Any, sigma: float, step: int) -> Any:
        if step == 20 and _is_victim():
            turn()
        return velocity(z, sigma, step)

    return harmed


def is_slow(velocity: Any) -> Any:
    return _at_second_step(velocity, lambda: time.sleep(1))
