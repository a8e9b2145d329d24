"""What ranks are told: the model that all open, and the video that all make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mochi.core.request import GenerateRequest
from mochi.core.speed import Speed
from mochi.memory.modes import Mode
from mochi.parallel.meeting import Meeting
from mochi.parallel.scheme import Scheme
from mochi.pipeline.defaults import ModelCard
from mochi.pipeline.lora_spec import LoraMode
from mochi.pipeline.parts import PartName, Precision
from mochi.pipeline.run import Inputs
from mochi.weights.folder import ModelFiles


@dataclass(frozen=True)
class Opening:
    """How a rank begins.

    Attributes:
        rank, size: its number and how many there are.
        device: where it computes, as torch names it.
        meeting: where it finds the others.
        together: ranks on its machine.
        threads: of its processor, where the machine is shared.
        files, card, name, precision: of the model, as a pipeline takes them.
        come_seconds: how long it waits for the others.
        version: of the supervisor's Mochi.
        reports: whether it tells its supervisor what came of a run.
        shard: whether the ranks keep the transformer's weights together, each a part of them.
    """

    rank: int
    size: int
    device: str
    meeting: Meeting
    together: int
    threads: int
    files: ModelFiles
    card: ModelCard
    name: str
    precision: Precision
    come_seconds: float
    version: str
    reports: bool
    shard: bool = False


@dataclass(frozen=True)
class LoraOrder:
    """An adapter to wear, and what its file has to be."""

    path: Path
    source: str
    name: str
    scale: float
    mode: LoraMode
    sha256: str


@dataclass(frozen=True)
class Order:
    """One video.

    Attributes:
        number: counts the orders of a crew.
        request, inputs: as a run takes them.
        scheme: how the ranks share it.
        modes: how each network is held.
        speed: the fast paths.
        loras: what the transformer wears.
        prompts: to be read as well, for the videos to come.
    """

    number: int
    request: GenerateRequest
    inputs: Inputs
    scheme: Scheme
    modes: Mapping[PartName, Mode]
    speed: Speed
    loras: tuple[LoraOrder, ...] = ()
    prompts: tuple[str, ...] = field(default=())

    def facts(self) -> dict[str, str]:
        """What all ranks have to be told alike, in words."""
        found = {f"request.{name}": repr(v) for name, v in self.request.to_dict().items()}
        found |= {f"the {name}": value for name, value in self.inputs.hashes().items()}
        found["parallel"] = str(self.scheme)
        found["the adapters"] = ", ".join(
            f"{lora.source} {lora.sha256[:12]} x {lora.scale:g} {lora.mode}" for lora in self.loras
        )
        return found
