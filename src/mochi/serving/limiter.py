"""How often an account may ask."""

from __future__ import annotations

import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from mochi.serving.problems import Problem


class Limiter:
    """So many requests a minute for each account, counted by each server for itself."""

    def __init__(self, per_minute: int):
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._item = RateLimitItemPerMinute(per_minute) if per_minute else None

    def hit(self, account: str) -> None:
        """Count a request.

        Raises:
            Problem: 429, with the seconds until the next one is taken.
        """
        if self._item is None or self._limiter.hit(self._item, account):
            return
        resets = self._limiter.get_window_stats(self._item, account).reset_time
        wait = max(1, round(resets - time.time()))
        raise Problem(
            429,
            f"more than {self._item.amount} requests a minute",
            headers={"Retry-After": str(wait)},
        )
