"""A toy transformer, and clips made of random numbers, for the trainer's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mochi.core.config import DiTConfig
from mochi.model.dit import AsymmDiT
from mochi.training.adapter import NewAdapter
from mochi.training.checkpoints import Checkpoints
from mochi.training.config import Config
from mochi.training.data.dataset import LoadedSample
from mochi.training.events import StepDone, TrainingEvent
from mochi.training.flow import FlowSettings, FlowTask
from mochi.training.optim import make_optimiser
from mochi.training.precision import as_trainable
from mochi.training.recompute import Recomputing
from mochi.training.settings import loop_of
from mochi.training.team import Team
from mochi.training.trainer import Trainer

TOY = DiTConfig(depth=2, heads=2, head_dim=16, visual_width=32, text_width=16, text_features=16)


class Stop(Exception):
    """Somebody pulled the plug."""


def stopping(after: int) -> Callable[..., Path]:
    """Saves like the real one, and pulls the plug after so many times."""
    saves, save = 0, Checkpoints.save

    def save_and_stop(*arguments: Any) -> Path:
        nonlocal saves
        path = save(*arguments)
        saves += 1
        if saves == after:
            raise Stop
        return path

    return save_and_stop


class ToyClips:
    """So many clips of two sizes; captions of different lengths, one of them empty."""

    def __init__(self, count: int = 6):
        self.names = tuple(f"clip{index}.mp4" for index in range(count))
        self._made = [self._make(index) for index in range(count)]

    def load(self, index: int) -> LoadedSample:
        return self._made[index]

    def _make(self, index: int) -> LoadedSample:
        generator = torch.Generator().manual_seed(index)
        shape = (12, 2, 4, 4) if index % 2 else (12, 1, 4, 6)
        mean = torch.randn(shape, generator=generator)
        text = torch.randn(index % 4, 16, generator=generator)
        return LoadedSample(mean, torch.full(shape, -2.0), text, text[:0], self.names[index])


def toy_dit(seed: int = 0) -> AsymmDiT:
    """With weights that are large enough to matter everywhere."""
    generator = torch.Generator().manual_seed(seed)
    dit = AsymmDiT(TOY).requires_grad_(False).eval()
    for parameter in dit.parameters():
        scale = 0.5 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return dit


def toy_config(**sections: Mapping[str, Any]) -> Config:
    """Six steps of four clips, unless a section says otherwise."""
    given: dict[str, dict[str, Any]] = {
        "training": {"steps": 6, "batch": 4, "seed": 3},
        "optimiser": {"lr": 0.01, "warmup_steps": 2},
        "saving": {"every": 2},
    }
    if sections.get("model", {}).get("train", "lora") == "lora":
        given["lora"] = {"rank": 4, "alpha": 4.0, "layers": ["all"]}
    for name, values in sections.items():
        given[name] = {**given.get(name, {}), **values}
    return Config.of(given)


class Heard(list[TrainingEvent]):
    """A reporter that remembers."""

    def __call__(self, event: TrainingEvent) -> None:
        self.append(event)

    @property
    def steps(self) -> list[StepDone]:
        return [event for event in self if isinstance(event, StepDone)]

    @property
    def losses(self) -> list[float]:
        return [event.loss for event in self.steps]


def toy_trainer(
    folder: Path,
    config: Config,
    heard: Heard,
    team: Team | None = None,
    clips: Any = None,
    dit: AsymmDiT | None = None,
) -> Trainer:
    """What `finetune` builds, on the toy."""
    team, dit = team or Team(), dit or toy_dit()
    dit.residency = Recomputing(1)
    adapter = (
        NewAdapter(dit, config.lora, config.training.seed) if config.model.train == "lora" else None
    )
    parameters: dict[str, nn.Parameter] = adapter.parameters if adapter else as_trainable(dit)
    if config.training.shard:
        team.shard(dit)
    team.install(dit)
    settings = FlowSettings(
        batch=config.training.batch,
        accumulate=config.training.accumulate,
        seed=config.training.seed,
        caption_dropout=config.data.caption_dropout,
        prior_share=0.0,
        sigma=config.training,
    )
    drops = adapter is not None and config.lora.dropout > 0
    task = FlowTask(dit, parameters, clips or ToyClips(), settings, team, drops=drops)
    checkpoints = Checkpoints(folder, config.to_dict(), config.saving.keep)
    optimiser = make_optimiser(config.optimiser, parameters)
    return Trainer(task, loop_of(config), optimiser, checkpoints, team, [heard])
