"""A process's share of a run: all of it on one device; on many, what its rank does."""

# Shapes: B batch, C channels, T H W latent frames and pixels.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from mochi.core.events import CancelToken
from mochi.memory.modes import Mode
from mochi.model.decoder import Decoder
from mochi.model.dit import AsymmDiT
from mochi.parallel.agreement import AgreedCancel, from_first
from mochi.parallel.frames import decode
from mochi.parallel.mesh import Mesh
from mochi.pipeline.budget import Budget
from mochi.pipeline.job import Job
from mochi.pipeline.parts import PartName, Parts
from mochi.pipeline.preview import checked_uint8
from mochi.pipeline.prompts import Conditioning
from mochi.sampling.caching import Agree, alone
from mochi.sampling.guidance import PreparesText
from mochi.text.features import TextFeatures


class Share(Protocol):
    """What a run asks where it could be one of several processes.

    Attributes:
        decodes: whether this process needs the decoder.
        second_chance: whether a stage that ran out of memory may begin anew.
    """

    @property
    def decodes(self) -> bool: ...

    @property
    def second_chance(self) -> bool: ...

    def arrange(self, budget: Budget, job: Job, parts: Parts, tell: Callable[[str], None]) -> None:
        """Hold the networks so that there is room for the job."""
        ...

    def conditioning(self, read: Callable[[], Conditioning]) -> Conditioning:
        """What `read` makes of the prompts."""
        ...

    def network(self, dit: AsymmDiT) -> tuple[PreparesText, Agree]:
        """What is sampled with, and how step caches decide."""
        ...

    def pixels(self, decoder: Callable[[], Decoder], z_BCTHW: Tensor) -> Iterator[Tensor]:
        """The decoded video, as far as this process gives it on."""
        ...


class Alone:
    """The `Share` of a run in one process."""

    decodes = second_chance = True

    def arrange(self, budget: Budget, job: Job, parts: Parts, tell: Callable[[str], None]) -> None:
        budget.arrange(budget.plan(job), tell)

    def conditioning(self, read: Callable[[], Conditioning]) -> Conditioning:
        return read()

    def network(self, dit: AsymmDiT) -> tuple[PreparesText, Agree]:
        return dit, alone

    def pixels(self, decoder: Callable[[], Decoder], z_BCTHW: Tensor) -> Iterator[Tensor]:
        return decoder().stream(z_BCTHW)


class OnMesh:
    """The `Share` of one rank. The first reads the prompts and gives the frames on; all denoise and
    decode.

    Args:
        mesh: this rank's groups.
        device: where it computes.
        cancel: the token of the run.
        modes: how each network is held; who started the ranks has planned that.
    """

    decodes = True
    second_chance = False  # the others would go on without this rank

    def __init__(
        self,
        mesh: Mesh,
        device: torch.device,
        cancel: CancelToken,
        modes: Mapping[PartName, Mode] | None = None,
    ):
        self.mesh, self.device = mesh, device
        self.cancel = AgreedCancel(cancel, mesh.everyone, device)
        self._modes = dict(modes or {})

    @property
    def leads(self) -> bool:
        """Whether this is the first rank."""
        return self.mesh.everyone.place == 0

    def arrange(self, budget: Budget, job: Job, parts: Parts, tell: Callable[[str], None]) -> None:
        self.hold(parts)

    def hold(self, parts: Parts) -> None:
        """Hold the networks as was planned."""
        for part, mode in self._modes.items():
            parts.hold(part, mode)

    def conditioning(self, read: Callable[[], Conditioning]) -> Conditioning:
        def plain() -> dict[str, Any]:
            made = read()
            return {"positive": _plain(made.positive), "negative": _plain(made.negative)}

        found = from_first(self.mesh.everyone, plain, self.device)
        self.cancel.agree()
        rows = (TextFeatures(**found[name]) for name in ("positive", "negative"))
        return Conditioning(*rows)

    def network(self, dit: AsymmDiT) -> tuple[PreparesText, Agree]:
        shared = self.mesh.install(dit)
        shared.before_step = self.cancel.agree
        return shared, shared.exchange.mean

    def pixels(self, decoder: Callable[[], Decoder], z_BCTHW: Tensor) -> Iterator[Tensor]:
        self.cancel.agree()
        return decode(
            decoder(),
            z_BCTHW,
            self.mesh.everyone,
            finish=checked_uint8,
            on_round=self.cancel.agree,
        )


def _plain(features: TextFeatures) -> dict[str, Any]:
    return {
        "features": features.features,
        "mask": features.mask,
        "token_counts": tuple(features.token_counts),
        "truncated": tuple(features.truncated),
    }
