"""How much memory a computation holds at its worst moment, counted without doing it.

The networks run on the meta device, where tensors have sizes but no contents, while every storage
that comes alive is counted until it dies. So the count follows the code that really runs: there is
no formula to forget when a layer changes. What kernels take inside themselves is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made while it is active; `peak` is the most at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before = {_storage(leaf)._cdata for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if _is_tensor(leaf) and _storage(leaf)._cdata not in before:
                self._add(_storage(leaf))
        return result

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._known.clear()

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def forget(_: weakref.ref[torch.UntypedStorage]) -> None:
            if self._known.pop(key, None) is not None:
                self._live -= size

        self._known[key] = weakref.ref(storage, forget)
        self._live += size
        self.peak = max(self.peak, self._live)


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes of tensors that `work` holds at one time, without gradients."""
    with torch.no_grad(), LiveBytes() as count:
        work()
    return count.peak
