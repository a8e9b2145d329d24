"""From a config to a trained adapter or network: everything is put together here."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mochi.core.errors import RequestError
from mochi.model.dit import AsymmDiT
from mochi.parallel.world import World
from mochi.training.adapter import NewAdapter
from mochi.training.base import Base
from mochi.training.checkpoints import Checkpoints, FolderLock
from mochi.training.config import Config
from mochi.training.data.dataset import Dataset, open_dataset
from mochi.training.ema import averaged
from mochi.training.events import Finished, Notice, Reporter
from mochi.training.export import export_adapter
from mochi.training.flow import FlowSettings, FlowTask, PreparedClips, Remembered
from mochi.training.optim import make_optimiser
from mochi.training.precision import as_trainable
from mochi.training.prior import PriorVideos, read_prompts
from mochi.training.result import LastSeen, write_network
from mochi.training.sampling import Prompts, Sampling
from mochi.training.settings import identity_of, loop_of
from mochi.training.team import Team
from mochi.training.trainer import Trainer, Watcher
from mochi.training.validate import Validation, set_aside


def finetune(
    config: Config,
    *,
    device: str = "auto",
    world: World | None = None,
    reporters: Sequence[Reporter] = (),
) -> Path:
    """Train as a config says, going on where an earlier run of the same config stopped.

    Args:
        config: all settings.
        device: where, unless `world` says it.
        world: the processes that share the work; every one of them calls this.
        reporters: are told what happens.

    Returns:
        The folder or file with the result.

    Raises:
        RequestError: a setting does not go with the model or the data.
        WeightsError: model, data or checkpoint cannot be used.
        TrainingError: a loss is no number, or the folder is in use.
        OutputError: something cannot be written.
        Cancelled: a reporter said so.
    """
    if config.model.train == "decoder":
        from mochi.training.decoder import finetune_decoder

        return finetune_decoder(config, device=device, world=world, reporters=reporters)
    team = Team(world, config.training.context)
    folder = Path(config.saving.folder)
    lock = FolderLock(folder) if team.is_first else None
    try:
        place = device if world is None else str(world.device)
        return Run(config, place, team, reporters).run()
    finally:
        if lock is not None:
            lock.release()


def data_fingerprint(data: Dataset) -> str:
    """Tells these clips and captions from others."""
    rows = [(sample.name, sample.sha256, sample.caption) for sample in data.samples]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@dataclass
class Run:
    """One process's part of a training of the transformer."""

    config: Config
    device: str
    team: Team
    reporters: Sequence[Reporter]
    last: LastSeen = field(default_factory=LastSeen)

    def run(self) -> Path:
        """Everything from the config to the result."""
        config, began = self.config, time.monotonic()
        data = open_dataset(config.data.path)
        base = Base.find(config, self.device)
        self._check_data(data, base)
        # T5 first, and gone before the transformer comes.
        prompts = self._prompts(base)
        own_videos = self._prior(base)
        dit = base.transformer(config)
        prior = own_videos.clips(dit) if own_videos else None
        adapter = self._adapter(dit)
        parameters = adapter.parameters if adapter else as_trainable(dit)
        if config.training.shard:
            self.team.shard(dit)
            dit.to(base.device)
        self.team.install(dit)
        own, aside = self._split(data)
        drops = bool(adapter and config.lora.dropout)
        task = FlowTask(dit, parameters, own, self._flow(), self.team, prior, drops)
        trainer = Trainer(
            task,
            loop_of(config),
            make_optimiser(config.optimiser, parameters),
            self._checkpoints(base, data),
            self.team,
            [*self.reporters, self.last],
            self._watchers(base, dit, aside, prompts),
        )
        facts = self._facts(base, own, aside, task)
        steps = trainer.run(config.to_dict(), facts, Path(config.saving.folder))
        with averaged(parameters, trainer.average):
            path = self._write(base, dit, adapter, data.samples[0].caption)
        trainer.tell(Finished(steps, path, time.monotonic() - began))
        return path

    def _tell(self, message: str) -> None:
        for reporter in self.reporters if self.team.is_first else ():
            reporter(Notice(message))

    def _check_data(self, data: Dataset, base: Base) -> None:
        features = base.pipe.parts.blueprint("dit").config.text_features
        found = data.load(0).text_NF.shape[1]
        if found != features:
            rule = f"has text features of width {found}, and {self.config.model.name} reads"
            raise RequestError("data.path", self.config.data.path, rule, f"width {features}")

    def _prompts(self, base: Base) -> Prompts | None:
        if not self.config.samples.every:
            return None
        path = Path(self.config.saving.folder) / "prompts.safetensors"
        return Prompts.of(base.pipe, self.config.samples, path, self.team)

    def _prior(self, base: Base) -> PriorVideos | None:
        settings, seed = self.config.prior, self.config.training.seed
        if not settings.share:
            return None
        path = Path(self.config.saving.folder) / "prior.safetensors"
        prompts = read_prompts(Path(settings.prompts))
        return PriorVideos(path, prompts, base.pipe, seed, self.team, self._tell)

    def _adapter(self, dit: AsymmDiT) -> NewAdapter | None:
        if self.config.model.train != "lora":
            return None
        return NewAdapter(dit, self.config.lora, self.config.training.seed)

    def _split(self, data: Dataset) -> tuple[Remembered, Remembered | None]:
        """Clips to train on, and those that are set aside."""
        clips, validation = PreparedClips(data), self.config.validation
        if not validation.every:
            return Remembered(clips), None
        if len(data) < 2:
            rule = "needs a clip to set aside, and there is one in all"
            raise RequestError("validation.every", validation.every, rule, 0)
        own, aside = set_aside(clips.names, validation.share, self.config.training.seed)
        return Remembered(clips, own), Remembered(clips, aside)

    def _flow(self) -> FlowSettings:
        training = self.config.training
        return FlowSettings(
            batch=training.batch,
            accumulate=training.accumulate,
            seed=training.seed,
            caption_dropout=self.config.data.caption_dropout,
            prior_share=self.config.prior.share,
            sigma=training,
        )

    def _checkpoints(self, base: Base, data: Dataset) -> Checkpoints:
        prompts = self.config.prior.prompts
        read = "\n".join(read_prompts(Path(prompts))) if prompts else ""
        identity = identity_of(self.config, base.fingerprint, data_fingerprint(data))
        identity["prior_prompts"] = hashlib.sha256(read.encode()).hexdigest()
        folder = Path(self.config.saving.folder) / "checkpoints"
        return Checkpoints(folder, identity, self.config.saving.keep)

    def _watchers(
        self, base: Base, dit: AsymmDiT, aside: Remembered | None, prompts: Prompts | None
    ) -> list[Watcher]:
        config, found = self.config, list[Watcher]()
        if aside is not None:
            found.append(
                Validation(
                    dit,
                    aside,
                    config.validation.sigmas,
                    config.validation.every,
                    config.training.seed,
                    self.team,
                )
            )
        if prompts is not None:
            folder = Path(config.saving.folder) / "samples"
            sampling = Sampling(dit, base.pipe, prompts, config.samples.every, folder, self.team)
            self.last.before = sampling.made
            found.append(sampling)
        return found

    def _facts(
        self, base: Base, own: Remembered, aside: Remembered | None, task: FlowTask
    ) -> dict[str, Any]:
        return {
            "base": self.config.model.name,
            "base_sha256": base.fingerprint,
            "clips": len(own.names),
            "validation_clips": 0 if aside is None else len(aside.names),
            "trained_parameters": sum(p.numel() for p in task.parameters.values()),
            "devices": self.team.size,
            "device": str(base.device),
        }

    def _write(self, base: Base, dit: AsymmDiT, adapter: NewAdapter | None, trigger: str) -> Path:
        folder = Path(self.config.saving.folder)
        if not self.team.is_first:
            return folder
        if adapter is not None:
            card = self.last.card(self.config.training.steps, trigger)
            depth = dit.config.depth
            return export_adapter(adapter.file(), folder / "adapter", card, depth=depth)
        return write_network(dit, folder / "dit.safetensors", base.dtype)
