"""Addresses that carry their own permission: signed, for one file, until a time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

_DIGITS = 32


class Links:
    """Signs and checks addresses of files."""

    def __init__(self, secret: bytes, seconds: int, clock: Callable[[], float]):
        self._secret = secret
        self._half = max(1, seconds // 2)
        self._clock = clock

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
