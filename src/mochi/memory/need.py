"""What a stage takes at its worst moment, in each mode, from the sizes of its weights.

Three kinds of memory are kept apart. The device's own; the host's, which nobody can take away; and
pages of mapped files, which the system takes back when it wants to: too few of these cost time,
never a run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mochi.memory.modes import Mode

Stage = Literal["text", "denoise", "decode", "encode"]


@dataclass(frozen=True)
class Need:
    """What one stage takes, in bytes beyond what the program holds already.

    Attributes:
        stage: which.
        weights, working: on the device where it runs, which may be the host itself.
        mode: how the weights are held.
        host: of the host's memory beside, where that is not the device.
        mapped: pages of files that are in memory at once.
        seconds: how long it takes; None where nobody measured this machine.
    """

    stage: Stage
    weights: int
    working: int
    mode: Mode = "high"
    host: int = 0
    mapped: int = 0
    seconds: float | None = None

    @property
    def total(self) -> int:
        """On the device, weights and working memory together."""
        return self.weights + self.working

    def beside(self, weights: int, mapped: int) -> Need:
        """The same, with other networks' weights in memory as well."""
        return replace(self, weights=self.weights + weights, mapped=self.mapped + mapped)


@dataclass(frozen=True)
class Sizes:
    """Bytes of a network's weights, by what moves together.

    Attributes:
        rest: what is outside the blocks.
        blocks: of all blocks together, without their modulation.
        block: of the largest block.
        modulation: of all modulation layers.
        modulation_block: of the largest block's.
    """

    rest: int
    blocks: int = 0
    block: int = 0
    modulation: int = 0
    modulation_block: int = 0

    @property
    def total(self) -> int:
        """All weights."""
        return self.rest + self.blocks + self.modulation


@dataclass(frozen=True)
class Weights:
    """A network's weights as they are stored, and as it computes with them.

    Attributes:
        in_place: on a CPU the network can compute with the file's pages as they are.
        largest: bytes of the largest stored tensor.
    """

    stored: Sizes
    ready: Sizes
    in_place: bool
    largest: int = 0


def blocks_need(
    stage: Stage, weights: Weights, mode: Mode, working: int, *, on_cpu: bool, kept: int = 0
) -> Need:
    """What a network of blocks takes: the transformer, or the text encoder.

    Args:
        stage: where it runs.
        weights: its weights.
        mode: how they are held.
        working: bytes while it computes.
        on_cpu: the device is the host.
        kept: bytes of what is made once for all steps, and lies beside.
    """
    ready = weights.ready
    streams = mode in ("low", "minimal")
    resident = ready.rest + (2 * ready.block if streams else ready.blocks)
    resident += ready.modulation if mode == "high" else 0
    if mode != "high":
        working = max(working, 2 * ready.modulation_block)
    mapped = _mapped(weights, mode)
    if on_cpu:
        return Need(stage, 0 if weights.in_place else resident, working + kept, mode, mapped=mapped)
    host = 2 * ready.block if streams else 0
    if stage == "denoise" and mode == "low":
        host = ready.blocks  # pinned for all steps; the text encoder passes only once
    return Need(stage, resident, working + kept, mode, host, mapped=weights.largest)


def sharded_need(need: Need, weights: Weights, ranks: int) -> Need:
    """The same where so many ranks keep the weights of the blocks together: each a part of every
    block as it is stored, and two blocks for their turn, the one in use perhaps converted."""
    stored = weights.stored
    kept = -(-(stored.blocks + stored.modulation) // ranks)
    block = max(stored.block, stored.modulation_block)
    used = 0 if weights.in_place else max(weights.ready.block, weights.ready.modulation_block)
    resident = weights.ready.rest + kept + 2 * block + used
    return replace(need, weights=resident, host=0, mapped=weights.largest)


def whole_need(stage: Stage, weights: Weights, mode: Mode, working: int, *, on_cpu: bool) -> Need:
    """What a network takes that is there as a whole in any mode: the VAE."""
    # Convolutions read their weights in another order than files have, so these are copied.
    mapped = weights.stored.total if on_cpu and weights.in_place else 0
    return Need(stage, weights.ready.total, working, mode, mapped=mapped)


def _mapped(weights: Weights, mode: Mode) -> int:
    """Pages of the file on a CPU; those of what was converted are let go behind it."""
    stored = weights.stored
    if mode == "minimal":  # what is converted is let go a block at a time
        return stored.rest + 2 * stored.block if weights.in_place else stored.block
    if mode == "low":
        return stored.rest + stored.blocks
    if not weights.in_place:
        return weights.largest
    return stored.total if mode == "high" else stored.rest + stored.blocks
