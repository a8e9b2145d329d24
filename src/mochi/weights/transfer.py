"""One file over HTTP: resumed where it was left, hashed as it arrives.

huggingface_hub (2.4) throws the partial file away when a transfer ends early; of 40 GB that is
too much. So the bytes go through here, over its session and with its headers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# HTTPError is the root of the errors of whichever HTTP library this version uses.
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

from mochi.core.errors import DownloadError
from mochi.weights.hub_files import Hash, RemoteFile

READ_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
_MAY_PASS = (408, 429, 500, 502, 503, 504)

OnBytes = Callable[[int], None]
"""Called with how many bytes of the file are here; fewer than before after a restart."""


@dataclass(frozen=True)
class Retry:
    """How to go on after an error that may pass: a cut connection, 429, 5xx.

    Attributes:
        attempts: tries without any progress before giving up.
        wait_seconds: pause after the first; doubled each time.
        longest_seconds: no pause is longer, whatever the server's Retry-After says.
        sleep: waits.
    """

    attempts: int = 6
    wait_seconds: float = 1.0
    longest_seconds: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def pause(self, failures: int, error: Exception) -> None:
        """Wait after the given number of failures in a row; raise `error` when that is enough."""
        if failures >= self.attempts or not may_pass(error):
            raise error
        wait = self.wait_seconds * 2 ** (failures - 1)
        if isinstance(error, HfHubHTTPError):
            asked = error.response.headers.get("Retry-After", "")
            wait = max(wait, float(asked)) if asked.isdigit() else wait
        self.sleep(min(wait, self.longest_seconds))


class CutShortError(Exception):
    """The server ended an answer before its end, or with another beginning than asked for."""


NETWORK_ERRORS: tuple[type[Exception], ...] = (HTTPError, CutShortError)


def may_pass(error: Exception) -> bool:
    """Whether trying again makes sense."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _MAY_PASS
    return isinstance(error, NETWORK_ERRORS)


def fetch(
    url: str,
    headers: Mapping[str, str],
    file: RemoteFile,
    path: Path,
    on_bytes: OnBytes,
    retry: Retry,
) -> None:
    """Complete the partial file `path`, which may hold the beginning already.

    Raises:
        DownloadError: the content has another checksum; the partial file is removed.
        HTTPError, CutShortError: the server refused, or was away for longer than `retry` waits;
            what has arrived stays.
        OSError: it cannot be written; what has arrived stays.
    """
    resumed = path.exists()
    if _complete(url, headers, file, path, on_bytes, retry):
        return
    path.unlink()
    # what was here before may have been damaged on the disk: once more, afresh
    if resumed and _complete(url, headers, file, path, on_bytes, retry):
        return
    path.unlink(missing_ok=True)
    raise DownloadError(f"the content of {file.name} has another checksum than the hub says")


class Partial:
    """A file that is on its way: what is here, and the hash of it."""

    def __init__(self, file: RemoteFile, path: Path, on_bytes: OnBytes):
        self.file, self._on_bytes = file, on_bytes
        self._out = path.open("ab+")
        self._hash: Hash = file.new_hash()
        self.here = 0
        self._out.seek(0)
        while block := self._out.read(READ_BYTES):
            self._count(block)
        if self.here > file.size:
            self.restart()

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._out.close()

    @property
    def is_right(self) -> bool:
        """Whether all of the file is here, with the right checksum."""
        return self.here == self.file.size and self._hash.hexdigest() == self.file.checksum

    def append(self, block: bytes) -> None:
        """Add what arrived."""
        self._out.write(block)
        self._count(block)

    def restart(self) -> None:
        """Forget what is here."""
        self._out.truncate(0)
        self._hash = self.file.new_hash()
        self.here = 0

    def _count(self, block: bytes) -> None:
        self._hash.update(block)
        self.here += len(block)
        self._on_bytes(self.here)


def _complete(
    url: str,
    headers: Mapping[str, str],
    file: RemoteFile,
    path: Path,
    on_bytes: OnBytes,
    retry: Retry,
) -> bool:
    failures = 0
    with Partial(file, path, on_bytes) as partial:
        while partial.here < file.size:
            before = partial.here
            try:
                _receive(url, headers, partial)
                if partial.here < file.size:
                    raise CutShortError(f"it ended after {partial.here} of {file.size} bytes")
            except NETWORK_ERRORS as error:
                failures = 1 if partial.here > before else failures + 1
                retry.pause(failures, error)
        return partial.is_right


def _receive(url: str, headers: Mapping[str, str], partial: Partial) -> None:
    asked = {**headers, "Accept-Encoding": "identity"}  # compressed bytes could not be resumed
    if partial.here:
        asked["Range"] = f"bytes={partial.here}-"
    with get_session().stream("GET", url, headers=asked, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == 416:
            partial.restart()
            raise CutShortError("the server cannot go on where the file was left")
        hf_raise_for_status(response)
        begins = f"bytes {partial.here}-"
        if partial.here and not response.headers.get("Content-Range", "").startswith(begins):
            partial.restart()  # the server ignored the range and sends everything
        for block in response.iter_bytes():  # as they come: a break loses nothing
            partial.append(block)
            if partial.here > partial.file.size:
                break
