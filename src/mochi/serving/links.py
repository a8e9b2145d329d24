"""Addresses that carry their own permission: signed, for one file, until a time; and how long
there will be a file behind them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

_DIGITS = 32


class Links:
    """Signs and checks addresses of files.

    Args:
        secret: what is signed with.
        seconds: how long an address works.
        clock: seconds since 1970.
        days: how long files are kept; None: for good.
    """

    def __init__(
        self, secret: bytes, seconds: int, clock: Callable[[], float], days: float | None = None
    ):
        self._secret = secret
        self._half = max(1, seconds // 2)
        self._clock = clock
        self._days = days

    def gone_at(self, since: float | None) -> float | None:
        """When what is there since then will be removed; None: not by itself."""
        return None if since is None or self._days is None else since + 24 * 3600 * self._days

    def path(self, file_id: str, variant: str | None = None) -> str:
        """The address below the server's own. It stays the same for a while, so browsers may keep
        what it led to, and works for at least half its time from now."""
        expires = (int(self._clock()) // self._half + 2) * self._half
        chosen = f"variant={variant}&" if variant else ""
        signature = self._sign(file_id, variant, expires)
        return f"/v1/files/{file_id}/download?{chosen}expires={expires}&signature={signature}"

    def holds(self, file_id: str, variant: str | None, expires: int, signature: str) -> bool:
        """Whether we signed this, and its time is not over."""
        ours = self._sign(file_id, variant, expires)
        good = hmac.compare_digest(ours.encode(), signature.encode("utf-8", "replace"))
        return good and self._clock() < expires

    def _sign(self, file_id: str, variant: str | None, expires: int) -> str:
        text = f"{file_id}\n{variant or ''}\n{expires}".encode("utf-8", "replace")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:_DIGITS]
