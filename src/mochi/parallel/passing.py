"""Frames that pass from one rank's part of a video to the next one's.

A causal convolution looks back two frames. The rank that has them sends them as soon as they
exist, and computes on; the rank that wants them has asked for them some convolutions ahead.
Messages go one way only, so a rank that is a message behind the one before it stays just that far
behind, and every further message is there when it is needed.
"""

# Shapes: B batch, C channels, T frames, H W pixels.

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mochi.parallel.group import Group, Pending, Shape

FRAMES, GRADIENTS = "frames", "frames' gradients"

_AHEAD = 2
"""Messages that a rank asks for before it needs them: one travels while one is being used."""


class Source(Protocol):
    """Where the frames before a part come from."""

    def take(self) -> Tensor:
        """Those of the next convolution, `(B, C, 2, H, W)`."""
        ...

    def give_back(self, gradient_BCTHW: Tensor) -> None:
        """Their gradient."""
        ...


class Sink(Protocol):
    """Where the last frames of a part go."""

    def give(self, x_BCTHW: Tensor) -> None:
        """Those of the next convolution, `(B, C, 2, H, W)`."""
        ...

    def take_back(self, like_BCTHW: Tensor) -> Tensor:
        """Their gradient, of this shape."""
        ...


class FromRank:
    """A `Source`: another rank. `shapes` are those of its messages, `(B, 2, H, W, C)`."""

    def __init__(
        self,
        group: Group,
        place: int,
        shapes: Sequence[Shape],
        dtype: torch.dtype,
        device: torch.device,
    ):
        self._group, self._place, self._kind = group, place, (dtype, device)
        self._left, self._coming = deque(shapes), deque[Pending]()
        self._ask()

    def take(self) -> Tensor:
        (found_BTHWC,) = self._coming.popleft().wait()
        self._ask()
        return found_BTHWC.permute(0, 4, 1, 2, 3)

    def take_all(self) -> Iterable[Tensor]:
        """All that comes from there, in order."""
        while self._coming:
            yield self.take()

    def give_back(self, gradient_BCTHW: Tensor) -> None:
        self._group.send(_message(gradient_BCTHW), self._place, GRADIENTS).wait()

    def _ask(self) -> None:
        while self._left and len(self._coming) < _AHEAD:
            shape = self._left.popleft()
            self._coming.append(self._group.expect(self._place, shape, *self._kind))


class ToRank:
    """A `Sink`: another rank."""

    def __init__(self, group: Group, place: int):
        self._group, self._place = group, place
        self._leaving: list[Pending] = []

    def give(self, x_BCTHW: Tensor) -> None:
        self._leaving.append(self._group.send(_message(x_BCTHW), self._place, FRAMES))

    def take_back(self, like_BCTHW: Tensor) -> Tensor:
        shape = tuple(like_BCTHW.permute(0, 2, 3, 4, 1).shape)
        found = self._group.receive(self._place, shape, like_BCTHW.dtype, like_BCTHW.device)
        return found.permute(0, 4, 1, 2, 3)

    def settle(self) -> None:
        """Wait until everything that was sent has arrived."""
        for each in self.leaving():
            each.wait()

    def leaving(self) -> list[Pending]:
        """What was sent, for somebody who waits for it later."""
        left, self._leaving = self._leaving, []
        return left


class Kept:
    """Frames that wait on a rank for its next part, or for the time when they may travel. For
    inference only: both a `Source` and a `Sink`."""

    def __init__(self, frames: Iterable[Tensor] = ()):
        self.frames = deque(frames)

    def take(self) -> Tensor:
        return self.frames.popleft()

    def give(self, x_BCTHW: Tensor) -> None:
        self.frames.append(_message(x_BCTHW).permute(0, 4, 1, 2, 3))

    def give_back(self, gradient_BCTHW: Tensor) -> None:
        raise AssertionError("gradients go through a video that is cut once")

    def take_back(self, like_BCTHW: Tensor) -> Tensor:
        raise AssertionError("gradients go through a video that is cut once")


class PassedFrames:
    """The `FrameExchange` of one part of a video, without attention along time.

    Args:
        source: where the frames before it come from; None at the start of the video.
        sink: where its last frames go; None at the end.
    """

    def __init__(self, source: Source | None, sink: Sink | None):
        self.source, self.sink = source, sink

    @property
    def at_start(self) -> bool:
        """Whether it begins with the video's first frame."""
        return self.source is None

    def frames_before(self, layer: nn.Module, x_BCTHW: Tensor, count: int) -> Tensor:
        if torch.is_grad_enabled() and x_BCTHW.requires_grad:
            before: Tensor = _Passed.apply(x_BCTHW, self, count)  # type: ignore[no-untyped-call]
            return before
        return self.passed(x_BCTHW, count)

    def passed(self, x_BCTHW: Tensor, count: int) -> Tensor:
        """Send the last `count` frames on and take those before the first."""
        enough = x_BCTHW.shape[2] >= count
        if self.sink is not None and enough:
            self.sink.give(x_BCTHW[:, :, -count:])
        if self.source is None:
            before = x_BCTHW[:, :, :1].expand(-1, -1, count, -1, -1)
        else:
            before = self.source.take()
        if self.sink is not None and not enough:
            self.sink.give(torch.cat([before, x_BCTHW], dim=2)[:, :, -count:])
        return before

    def keys_values(
        self, layer: nn.Module, k_PHTK: Tensor, v_PHTK: Tensor
    ) -> tuple[Tensor, Tensor]:
        raise AssertionError("attention sees the frames of all ranks, not only those that pass")


class _Passed(torch.autograd.Function):
    """Gradients travel the other way: what the next rank made of the frames that it was given is
    added to what this rank made of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, exchange: PassedFrames, count: int) -> Tensor:
        ctx.exchange, ctx.shape = exchange, x.shape
        return exchange.passed(x, count).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        source, sink = ctx.exchange.source, ctx.exchange.sink
        count, own = gradient.shape[2], ctx.shape[2]
        # Of the frames before and of the part's own, one behind the other.
        seen = torch.cat([gradient, gradient.new_zeros(ctx.shape)], dim=2)
        if sink is not None:
            seen[:, :, -count:] += sink.take_back(gradient)
        before, mine = seen.split([count, own], dim=2)
        if source is None:
            mine[:, :, :1] += before.sum(dim=2, keepdim=True)
        else:
            source.give_back(before)
        return mine, None, None


def _message(x_BCTHW: Tensor) -> Tensor:
    """A copy to be sent, channels last: what it was made from may be overwritten."""
    return x_BCTHW.permute(0, 2, 3, 4, 1).clone(memory_format=torch.contiguous_format)
