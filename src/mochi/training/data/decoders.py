"""Videos decoded by several threads, a few clips ahead of whoever encodes them.

Decoding and resizing happen in C code that lets other threads run.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from mochi.core.errors import VideoError
from mochi.training.data.clips import Clip
from mochi.training.data.folder import DataFolder
from mochi.training.data.plan import Cutting, Plan, plan_of
from mochi.video.colour import Pixels
from mochi.video.spans import Span, read_spans

_LOOK_SECONDS = 0.2
"""How soon a thread notices that it should stop."""


@dataclass(frozen=True)
class Decoded:
    """Frames of one part of a clip."""

    clip: Clip
    span: Span
    frames_THWC: Pixels


@dataclass(frozen=True)
class Ended:
    """A clip is done with: its plan, or why there is none."""

    clip: Clip
    plan: Plan | VideoError


class Decoders:
    """Plans and decodes clips in threads.

    Args:
        folder: where plans are kept.
        cutting: how videos become samples.
        hashes: of the files, by the clips' names.
        is_done: whether a part is finished and need not be decoded.
        workers: threads; at most so many clips wait, decoded.
    """

    def __init__(
        self,
        folder: DataFolder,
        cutting: Cutting,
        hashes: dict[str, str],
        is_done: Callable[[Clip, Span], bool],
        workers: int,
    ):
        self._folder, self._cutting, self._hashes = folder, cutting, hashes
        self._is_done = is_done
        self._workers = workers
        self._results: queue.Queue[Decoded | Ended | BaseException] = queue.Queue(workers)
        self._stop = threading.Event()

    def run(
        self, clips: Sequence[Clip], check: Callable[[], object]
    ) -> Generator[Decoded | Ended, None, None]:
        """What becomes of the clips, in the order in which it is ready; to be closed.

        Args:
            clips: to decode.
            check: called while nothing is ready; may raise, to stop.

        Raises:
            BaseException: whatever went wrong in a thread that is not the clip's own fault.
        """
        waiting: queue.SimpleQueue[Clip] = queue.SimpleQueue()
        for clip in clips:
            waiting.put(clip)
        threads = [
            threading.Thread(target=self._work, args=(waiting,), daemon=True)
            for _ in range(min(self._workers, len(clips)))
        ]
        for thread in threads:
            thread.start()
        try:
            left = len(clips)
            while left:
                found = self._next(check)
                left -= isinstance(found, Ended)
                yield found
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _next(self, check: Callable[[], object]) -> Decoded | Ended:
        while True:
            check()
            try:
                found = self._results.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if isinstance(found, BaseException):
                raise found
            return found

    def _work(self, waiting: queue.SimpleQueue[Clip]) -> None:
        try:
            while not self._stop.is_set():
                self._decode(waiting.get_nowait())
        except queue.Empty:
            return
        except BaseException as error:  # a full disk, or a mistake of ours: the caller's thread
            self._put(error)

    def _decode(self, clip: Clip) -> None:
        try:
            plan = plan_of(clip, self._hashes[clip.name], self._cutting, self._folder)
            missing = [span for span in plan.spans if not self._is_done(clip, span)]
            if missing:
                for span, frames_THWC in read_spans(clip.path, missing, self._cutting.fps):
                    self._put(Decoded(clip, span, frames_THWC))
        except VideoError as error:
            self._put(Ended(clip, error))
        else:
            self._put(Ended(clip, plan))

    def _put(self, result: Decoded | Ended | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._results.put(result, timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                continue
