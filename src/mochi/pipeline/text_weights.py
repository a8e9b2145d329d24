"""The text encoder out of a checkpoint of any layout, for `text` to build."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mochi.core.config import T5Size
from mochi.model.stored import StoredWeight
from mochi.weights.checkpoint import PartView
from mochi.weights.folder import ModelFiles, open_part
from mochi.weights.loading import WeightReader


class CheckpointT5:
    """The weights of a T5 encoder, as `text.t5.T5Weights` wants them.

    Attributes:
        config: its `config.json`, if it has one.

    Raises:
        WeightsError: a tensor is missing, foreign, of a wrong shape, or lacks its scale.
    """

    def __init__(self, view: PartView, config: Path | None = None):
        view.check()
        self.config = config
        self._view = view
        # Plain floats are looked at when they have been used: their NaN shows in the features.
        self._reader = WeightReader(view, "cpu", check_finite=view.is_quantised)
        self._unread = set(view.shapes)

    @classmethod
    def of(cls, files: ModelFiles) -> CheckpointT5:
        """Those of a model.

        Raises:
            WeightsError: it has none, or an unusable one.
        """
        return cls(open_part("t5", files.part("t5")), files.t5_config)

    @property
    def label(self) -> str:
        return self._view.label

    @property
    def size(self) -> T5Size:
        size: T5Size = self._view.config
        return size

    @property
    def names(self) -> Collection[str]:
        return self._view.shapes.keys()

    def read(self, name: str) -> StoredWeight:
        """One weight; with the last one it is known whether they make sense together.

        Raises:
            WeightsError: it is not finite, or all of them are noise.
        """
        weight = self._reader.read(name)
        self._unread.discard(name)
        if not self._unread:
            self._reader.finish()
        return weight
