"""Messages between a supervising process and a rank: whole ones, from any thread, in order.

Both ends are ours and on one machine. Tensors and arrays travel as plain bytes, not through shared
memory, so there is nothing that could be left behind.
"""

from __future__ import annotations

import pickle  # noqa: TID251 -- messages of our own processes to each other, never files
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import mochi.core.errors as errors
from mochi.core.errors import MochiError, RankError
from mochi.parallel.pulse import PeerLostError

_PLAIN = (str, int, float, bool, bytes, type(None))


class Channel:
    """Two pipes, one in each direction."""

    def __init__(self, incoming: Connection, outgoing: Connection):
        self._incoming, self._outgoing = incoming, outgoing
        self._lock = threading.Lock()

    @property
    def incoming(self) -> Connection:
        """To be waited for."""
        return self._incoming

    def say(self, kind: str, **content: Any) -> None:
        """Send a message.

        Raises:
            OSError: the other end has gone.
        """
        data = pickle.dumps((kind, content), protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._outgoing.send_bytes(data)

    def hear(self) -> tuple[str, dict[str, Any]]:
        """The next message; waits for it.

        Raises:
            EOFError, OSError: the other end has gone.
        """
        kind, content = pickle.loads(self._incoming.recv_bytes())
        return kind, content

    def close(self) -> None:
        """Give the pipes back."""
        self._incoming.close()
        self._outgoing.close()


@dataclass(frozen=True)
class Failure:
    """An exception on its way to another process.

    Attributes:
        kind: its class by name, if it is one of Mochi's, else "".
        message: its words; of a bug its last line.
        fields: its attributes, as far as they are plain or picklable.
        details: of a bug, the traceback.
        echo: whether it only says that another rank has gone.
    """

    kind: str
    message: str
    fields: dict[str, Any]
    details: str = ""
    echo: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Pack an exception."""
        if not isinstance(error, MochiError):
            text = "".join(traceback.format_exception(error))
            return cls("", traceback.format_exception_only(error)[-1].strip(), {}, text)
        echo = isinstance(error, PeerLostError)
        kind = RankError.__name__ if echo else type(error).__name__
        fields = {name: _portable(value) for name, value in vars(error).items()}
        return cls(kind, str(error), fields, echo=echo)

    def error(self, rank: int) -> Exception:
        """The exception again; a bug has its traceback in it."""
        kind = getattr(errors, self.kind, None) if self.kind else None
        if kind is None:
            return RuntimeError(f"rank {rank}: {self.message}\n{self.details}".rstrip())
        found: Exception = kind.__new__(kind)
        about = f" (on rank {rank})" if rank and self.kind != RankError.__name__ else ""
        Exception.__init__(found, self.message + about)
        vars(found).update(self.fields)
        if isinstance(found, RankError):
            found.rank = self.fields.get("rank", rank)
        return found


def travels(value: object) -> bool:
    """Whether a value can be sent to another process, which knows modules but no main script."""
    try:
        pickle.dumps(value)
    except Exception:  # whatever a foreign class raises here: it stays at home
        return False
    return getattr(value, "__module__", "") != "__main__"


def _portable(value: Any) -> Any:
    return value if isinstance(value, _PLAIN) or travels(value) else repr(value)
