"""The second chance of a run that ran out of memory: the same stage again, with less at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mochi.core.errors import DoesNotFitError
from mochi.memory.modes import smaller
from mochi.memory.need import Stage
from mochi.pipeline.budget import STAGE_PARTS
from mochi.pipeline.parts import Parts
from mochi.pipeline.watch import Watch

T = TypeVar("T")


class Recovery:
    """Repeats a stage once, in the next smaller mode; the stages before it are not lost.

    One run has one second chance: what is planned too small twice is planned wrongly, and the
    user should hear of it.

    Attributes:
        used: whether it was taken already.
    """

    def __init__(self, parts: Parts, watch: Watch, used: bool = False):
        self._parts = parts
        self._watch = watch
        self.used = used

    def attempt(self, stage: Stage, after: Sequence[Stage], work: Callable[[], T]) -> T:
        """Do the work of a stage; if the memory runs out, once more with less of it.

        Args:
            stage: what is done.
            after: the stages that follow; they take no more than this one either.
            work: must be able to begin anew.

        Raises:
            DoesNotFitError: there was not enough memory the second time either.
        """
        mode = smaller(self._parts.mode(STAGE_PARTS[stage]))
        in_one_mode_alone = not self._parts.precision.exact
        if self.used or mode is None or in_one_mode_alone:
            return work()
        try:
            return work()
        except DoesNotFitError as error:
            problem = str(error)
        # Outside of the handler: the error held the frames, and these the tensors of the attempt.
        self.used = True
        for each in (stage, *after):
            self._parts.limit(STAGE_PARTS[each], mode)
        self._parts.release_all()
        self._watch.notice(f"{problem.split(';')[0]}; once more with --memory {mode}")
        return work()
